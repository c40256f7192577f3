"""The training of one student under the recipe's protocol."""

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
from srel_hub.stages.evaluate.training_sets import TrainingSet


class Student:
    """A network to train, and the moving average of its weights if the protocol scores the average.

    Args:
        model: A transformers classifier, on the device of the training.
        spec: The protocol, whose `ema` is the decay of the average.
    """

    def __init__(self, model: nn.Module, spec: config.Evaluate) -> None:
        self.model, self._average = model, None
        if spec.ema is not None:
            self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(spec.ema), use_buffers=True)

    @property
    def state(self) -> nn.Module:
        """All networks that a checkpoint must contain."""
        return self.model if self._average is None else nn.ModuleList([self.model, self._average])

    @property
    def scored(self) -> nn.Module:
        """The network that is scored."""
        return self.model if self._average is None else self._average.module

    def update_average(self) -> None:
        """Update the moving average after an optimizer step."""
        if self._average is not None:
            self._average.update_parameters(self.model)


def train_student(
    student: Student,
    network: Callable[[Tensor], Tensor],
    data: TrainingSet,
    spec: config.Evaluate,
    seed: int,
    checkpoint: Checkpoint,
) -> Iterator[float]:
    """Train a student in place from where its checkpoint ended.

    Args:
        student: The student.
        network: A function that returns the student's logits [B, K] for pixel values [B, 3, H, W].
        data: The training set.
        spec: The protocol.
        seed: The seed of batches and dropout.
        checkpoint: The optimizer and the curve.

    Yields:
        The mean loss of every epoch.

    Raises:
        UserError: If the loss is not finite.
    """
    optimizer, device = checkpoint.optimizer, next(student.model.parameters()).device
    labels = data.labels.to(device)
    for index in range(checkpoint.epochs, spec.epochs):
        seed_epoch(seed, index)
        epoch = data.epoch(index)
        set_learning_rate(optimizer, learning_rate(spec.optimizer, index, spec.epochs))
        student.model.train()
        total = torch.zeros((), device=device)
        for parts in _batches(epoch, spec, generator(seed, "order", index)):
            count = sum(len(part) for part in parts)
            optimizer.zero_grad(set_to_none=True)
            for part in parts:
                loss = _loss(network, epoch, part, labels, data.hard, spec, index)
                (loss * (len(part) / count)).backward()
                total += loss.detach() * len(part)
            optimizer.step()
            student.update_average()
        yield require_finite(total, f"evaluate, epoch {index}", "evaluate.optimizer.lr") / len(epoch)


def _batches(epoch: Epoch, spec: config.Evaluate, draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Yield the images of each optimizer step, divided as BatchNorm needs them: the whole batch, or teacher groups."""
    if not spec.groups:
        for batch in epoch_batches(len(epoch), spec.batch_size, draw):
            yield (batch,)
        return
    assert epoch.groups is not None, "evaluate.groups requires relabel.group_size"
    groups = [torch.tensor(epoch.groups[index]) for index in torch.randperm(len(epoch.groups), generator=draw)]
    groups_per_step = max(1, spec.batch_size // len(epoch.groups[0]))  # the last group may have one image more
    for start in range(0, len(groups), groups_per_step):
        yield tuple(groups[start : start + groups_per_step])


def _loss(
    network: Callable[[Tensor], Tensor],
    epoch: Epoch,
    part: Tensor,
    labels: Tensor,
    hard: bool,
    spec: config.Evaluate,
    index: int,
) -> Tensor:
    """Compute the protocol's loss, the mean over these images."""
    if hard:
        return _hard_loss(network(epoch.pixel_values(part)), epoch, part, labels)
    pixel_values, logits = epoch.batch(part)
    output = network(pixel_values)
    loss = soft_loss(spec, index, output, logits.to(output.device))
    if spec.hard_weight:
        loss = loss + spec.hard_weight * _hard_loss(output, epoch, part, labels)
    return loss


def _hard_loss(output: Tensor, epoch: Epoch, part: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy with the classes of both mixed images, weighted by the images' shares."""
    views = epoch.views.select(part)
    indices = part.to(labels.device)
    partners = indices if views.partners is None else views.partners.to(labels.device).long()
    shares = views.own_share((epoch.images.shape[2], epoch.images.shape[3])).to(labels.device)
    return mixed_cross_entropy(output, labels[indices], labels[partners], shares)
