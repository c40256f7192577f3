"""stages.evaluate.student."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from srel_hub import config
from srel_hub.core.losses import mixed_cross_entropy, soft_loss
from srel_hub.core.optim import epoch_batches, learning_rate, require_finite, set_learning_rate
from srel_hub.core.seeds import generator
from srel_hub.labels.epochs import Epoch
from srel_hub.runs.checkpoint import Checkpoint, seed_epoch
from srel_hub.stages.evaluate.training_sets import Row


class Trained:
    """A student, and the moving average of its weights where the protocol scores that."""

    def __init__(self, model: nn.Module, spec: config.Evaluate) -> None:
        self.model, self._averaged = model, None
        if spec.ema is not None:
            self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(spec.ema), use_buffers=True)

    @property
    def state(self) -> nn.Module:
        """All that a checkpoint must keep."""
        return self.model if self._averaged is None else nn.ModuleList([self.model, self._averaged])

    @property
    def scored(self) -> nn.Module:
        return self.model if self._averaged is None else self._averaged.module

    def stepped(self) -> None:
        """The weights made a step."""
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)


def train_student(
    trained: Trained,
    network: Callable[[Tensor], Tensor],
    row: Row,
    spec: config.Evaluate,
    seed: int,
    checkpoint: Checkpoint,
) -> Iterator[float]:
    """Train in place from where the checkpoint is, an epoch a step; gives the epoch's mean loss.

    Args:
        network: gives the model's logits.
    """
    optimizer, device = checkpoint.optimizer, next(trained.model.parameters()).device
    labels = row.labels.to(device)
    for index in range(checkpoint.epochs, spec.epochs):
        seed_epoch(seed, index)
        epoch = row.epoch(index)
        set_learning_rate(optimizer, learning_rate(spec.optimizer, index, spec.epochs))
        trained.model.train()
        total = torch.zeros((), device=device)
        for parts in _batches(epoch, spec, generator(seed, "order", index)):
            count = sum(len(part) for part in parts)
            optimizer.zero_grad(set_to_none=True)
            for part in parts:
                loss = _loss(network, epoch, part, labels, row.hard, spec, index)
                (loss * (len(part) / count)).backward()
                total += loss.detach() * len(part)
            optimizer.step()
            trained.stepped()
        yield require_finite(total, f"evaluate, epoch {index}", "evaluate.optimizer.lr") / len(epoch)


def _batches(epoch: Epoch, spec: config.Evaluate, draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """The images of each step, in the parts that BatchNorm sees: the whole batch, or the teacher's groups."""
    if not spec.groups:
        for batch in epoch_batches(len(epoch), spec.batch_size, draw):
            yield (batch,)
        return
    assert epoch.groups is not None, "the recipe's groups are those of relabel"
    groups = [torch.tensor(epoch.groups[index]) for index in torch.randperm(len(epoch.groups), generator=draw)]
    at_once = max(1, spec.batch_size // len(epoch.groups[0]))  # the last may be longer by one
    for start in range(0, len(groups), at_once):
        yield tuple(groups[start : start + at_once])


def _loss(
    network: Callable[[Tensor], Tensor],
    epoch: Epoch,
    part: Tensor,
    labels: Tensor,
    hard: bool,
    spec: config.Evaluate,
    index: int,
) -> Tensor:
    """The protocol's loss on these images, mean over them."""
    if hard:
        return _hard_loss(network(epoch.pixel_values(part)), epoch, part, labels)
    pixel_values, logits = epoch.batch(part)
    output = network(pixel_values)
    loss = soft_loss(spec, index, output, logits.to(output.device))
    if spec.hard_weight:
        loss = loss + spec.hard_weight * _hard_loss(output, epoch, part, labels)
    return loss


def _hard_loss(output: Tensor, epoch: Epoch, part: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the classes of what is shown, by their shares."""
    views = epoch.views.select(part)
    here = part.to(labels.device)
    partners = here if views.partners is None else views.partners.to(labels.device).long()
    shares = views.own_share((epoch.images.shape[2], epoch.images.shape[3])).to(labels.device)
    return mixed_cross_entropy(output, labels[here], labels[partners], shares)
