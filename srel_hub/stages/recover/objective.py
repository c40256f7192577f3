"""What recover minimizes, as a function of the pixels: cross-entropy, BatchNorm statistics and image priors.

With several teachers, one of them takes its turn each iteration, or all are asked and their terms averaged.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.core.bn_matching import MatchedBatchNorm, bn_loss, matched
from srel_hub.core.crop_transform import Moves, move_matrices, still, view
from srel_hub.core.engine import FLOAT32, Engine, at_least_float32, to_channels_last
from srel_hub.core.image_priors import l2_prior, tv_prior
from srel_hub.core.losses import classification_loss
from srel_hub.core.seeds import generator
from srel_hub.errors import UserError
from srel_hub.stages.recover.class_statistics import Statistics
from srel_hub.teachers.classifier import Classifier


class Member:
    """One teacher's terms, of pixels that are normalized for `space`.

    Args:
        layers: the model's matched BatchNorm layers.
        goals: of each layer, the mean and variance of each class, each [K, C], that groups of one class are to match;
            None: the layer's own.
        weight: a, of the BatchNorm term.
    """

    def __init__(
        self,
        classifier: Classifier,
        layers: Sequence[MatchedBatchNorm],
        space: Classifier,
        spec: config.Recover,
        engine: Engine,
        goals: Statistics | None,
    ) -> None:
        self.model = to_channels_last(classifier.model.eval().requires_grad_(False))
        self.weight = 0.0 if spec.bn_weight == "auto" else spec.bn_weight
        self._layers, self._spec, self._engine, self._goals = layers, spec, engine, goals
        (mean, std), (own_mean, own_std) = channel_statistics(space), channel_statistics(classifier)
        self._scale, self._shift = std / own_std, (mean - own_mean) / own_std
        self._is_native = (classifier.mean, classifier.std) == (space.mean, space.std)
        self.terms = engine.compile_if_enabled(self._terms)

    def __call__(self, x: Tensor, labels: Tensor, moves: Moves) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [G], and its terms."""
        cross_entropy, bn, prior = self.terms(x, labels, moves.boxes, moves.flips, moves.rolls)
        loss = cross_entropy + self.weight * bn + prior
        return loss, {"cross_entropy": cross_entropy.detach().clone(), "bn": bn.detach().clone()}

    def _terms(
        self, x: Tensor, labels: Tensor, boxes: Tensor, flips: Tensor, rolls: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        for index, layer in enumerate(self._layers):
            layer.groups = len(x)
            if self._goals is not None:
                mean, var = self._goals[index]
                classes = labels.view(len(x), -1)[:, 0]
                layer.goal = mean[classes], var[classes]
        maps = move_matrices(Moves(boxes, flips, rolls), (x.shape[-2], x.shape[-1]))
        with self._engine.autocast(x.device):
            seen = view(x, *(matrix.to(x) for matrix in maps))
            own = seen if self._is_native else seen * self._scale.to(seen) + self._shift.to(seen)
            logits = at_least_float32(self.model(own.contiguous(memory_format=torch.channels_last)).logits)
        distances = [layer.distance for layer in self._layers]
        bn = bn_loss(distances, self._spec.first_bn_factor, self._spec.bn_term == "relative")
        return classification_loss(logits, labels, len(x)), bn, priors(at_least_float32(seen), self._spec, len(x))

    @torch.no_grad()
    def find_weight(self, x: Tensor, labels: Tensor) -> None:
        """Make the weighted BatchNorm term `bn_ratio` times the cross-entropy, on these pixels [G, B, 3, H, W]."""
        look = still((x.shape[-2], x.shape[-1]), len(x), x.device)
        cross_entropy, bn, _ = self._terms(x, labels, look.boxes, look.flips, look.rolls)
        self.weight = self._spec.bn_ratio * float(cross_entropy.mean() / bn.mean())


class Objective:
    """What recover minimizes; open as a context, for the networks are changed within it.

        L = CE(f(x~), y) + a R_BN(x~) + a_l2 R_l2(x~) + a_tv R_TV(x~),  x~ = roll(flip(crop(x)))

    Args:
        classifiers: the teachers; pixels are normalized for the first.
        seed: of the noise on which `bn_weight: auto` finds each teacher's weight.
        goals: with `statistics: class`, every teacher's class statistics.

    Raises:
        UserError: if a network has no BatchNorm layer to match.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        spec: config.Recover,
        engine: Engine = FLOAT32,
        seed: int = 0,
        goals: Sequence[Statistics] | None = None,
    ) -> None:
        self.classifier, self.spec = classifiers[0], spec
        self._classifiers, self._engine, self._seed = classifiers, engine, seed
        self._goals: Sequence[Statistics | None] = goals or [None] * len(classifiers)

    def __enter__(self) -> "Objective":
        relative = self.spec.bn_term == "relative"
        with ExitStack() as stack:
            found = [stack.enter_context(matched(each.model, relative)) for each in self._classifiers]
            if not all(found):
                raise UserError("a teacher has no BatchNorm2d layer; SRe2L recovers images from their statistics")
            self.members = [
                Member(each, layers, self.classifier, self.spec, self._engine, goals)
                for each, layers, goals in zip(self._classifiers, found, self._goals, strict=True)
            ]
            self._open = stack.pop_all()
        if self.spec.bn_weight == "auto":
            self._find_weights()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _find_weights(self) -> None:
        """Each teacher's weight, from the same noise in every process."""
        weight, K = next(self.members[0].model.parameters()), len(self.classifier.class_names)
        labels = torch.arange(min(self.spec.class_block, K))
        if self.spec.statistics == "class":  # groups of one class, ten at most
            labels = torch.arange(min(10, K))[:, None].expand(-1, min(10, self.spec.ipc))
        draw = generator(self._seed, "recover", "bn_weight")
        noise = torch.randn(*labels.view(-1, labels.shape[-1]).shape, 3, *self.classifier.size, generator=draw)
        for member in self.members:
            member.find_weight(noise.to(weight), labels.flatten().to(weight.device))

    def __call__(self, x: Tensor, labels: Tensor, moves: Moves, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [G] of pixels [G, B, 3, H, W], moved as iteration t's moves say, and its terms."""
        asked = self.members
        if self.spec.turns == "cycle":
            asked = [self.members[t % len(self.members)]]
        answers = [member(x, labels, moves) for member in asked]
        if len(answers) == 1:
            return answers[0]
        terms = {name: torch.stack([each[name] for _, each in answers]).mean(0) for name in answers[0][1]}
        return torch.stack([loss for loss, _ in answers]).mean(0), terms


def priors(seen: Tensor, spec: config.Recover, groups: int) -> Tensor:
    """[G]: the optional image priors, weighted; 0 where both weights are."""
    total = torch.zeros(groups, device=seen.device)
    if spec.l2_weight:
        total = total + spec.l2_weight * l2_prior(seen, groups)
    if spec.tv_weight:
        total = total + spec.tv_weight * tv_prior(seen, groups)
    return total


def channel_statistics(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each float64 [3, 1, 1]."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (classifier.mean, classifier.std))
    return mean, std
