"""The objective of recover, a function of the pixels: cross-entropy, BatchNorm statistics and image priors.

With several teachers, each iteration uses one of them in turn, or averages the terms of all.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.core.bn_matching import MatchedNetwork, bn_loss, matched
from srel_hub.core.crop_transform import Moves, move_matrices, still, view
from srel_hub.core.engine import FLOAT32, Engine, at_least_float32, to_channels_last
from srel_hub.core.image_priors import l2_prior, tv_prior
from srel_hub.core.losses import classification_loss
from srel_hub.core.seeds import generator
from srel_hub.errors import UserError
from srel_hub.stages.recover.class_statistics import Statistics
from srel_hub.teachers.class_subset import complete_network, own_indices
from srel_hub.teachers.classifier import Classifier


Terms = dict[str, Tensor]  # 'cross_entropy' and 'bn', each [G], unweighted


class Member:
    """The terms of one teacher.

    Args:
        classifier: The teacher.
        network: The teacher's model with matched BatchNorm layers.
        space: The classifier with whose mean and standard deviation the pixels are normalized.
        spec: The recipe's section.
        engine: How the network computes.
        goals: For each layer, the mean and variance of each class, each [K, C], for groups of one class; None matches
            the layer's own statistics.

    Attributes:
        weight: a, the weight of the BatchNorm term.
    """

    def __init__(
        self,
        classifier: Classifier,
        network: MatchedNetwork,
        space: Classifier,
        spec: config.Recover,
        engine: Engine,
        goals: Statistics | None,
    ) -> None:
        # The complete network, even if the dataset has only some of its classes.
        self.model = to_channels_last(complete_network(classifier.model).eval().requires_grad_(False))
        self._selection = classifier.model
        self.weight = 0.0 if spec.bn_weight == "auto" else spec.bn_weight
        self._network, self._spec, self._engine, self._goals = network, spec, engine, goals
        self._is_native = (classifier.mean, classifier.std) == (space.mean, space.std)
        # Pixels normalized for `space`, renormalized for this teacher: x * scale + shift. Moved to the device once, in
        # float64, and rounded to the pixels' precision in each iteration.
        (mean, std), (own_mean, own_std) = channel_statistics(space), channel_statistics(classifier)
        device = next(self.model.parameters()).device
        self._scale, self._shift = (std / own_std).to(device), ((mean - own_mean) / own_std).to(device)
        self.terms = engine.compile_if_enabled(self._terms)

    def __call__(self, x: Tensor, labels: Tensor, moves: Moves) -> tuple[Tensor, Terms]:
        """Return the loss [G] of pixels [G, B, 3, H, W], and its terms."""
        cross_entropy, bn, prior = self.terms(x, labels, moves.boxes, moves.flips, moves.rolls)
        loss = cross_entropy + self.weight * bn + prior
        # Clones, because a compiled function may overwrite its outputs in its next call.
        return loss, {"cross_entropy": cross_entropy.detach().clone(), "bn": bn.detach().clone()}

    def _terms(
        self, x: Tensor, labels: Tensor, boxes: Tensor, flips: Tensor, rolls: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups, size = len(x), (x.shape[-2], x.shape[-1])
        goals = None
        if self._goals is not None:
            classes = labels.view(groups, -1)[:, 0]
            goals = [(mean[classes], var[classes]) for mean, var in self._goals]
        maps = move_matrices(Moves(boxes, flips, rolls), size)
        with self._engine.autocast(x.device):
            moved = view(x, *(matrix.to(x) for matrix in maps))
            own = moved if self._is_native else moved * self._scale.to(moved) + self._shift.to(moved)
            output, distances = self._network(own.contiguous(memory_format=torch.channels_last), groups, goals)
            logits = at_least_float32(output)
        bn = bn_loss(distances, self._spec.first_bn_factor, self._spec.bn_term == "relative")
        priors = image_priors(at_least_float32(moved), self._spec, groups)
        return classification_loss(logits, own_indices(self._selection, labels), groups), bn, priors

    @torch.no_grad()
    def find_weight(self, x: Tensor, labels: Tensor) -> None:
        """Choose the weight so that the BatchNorm term is `bn_ratio` times the cross-entropy on these pixels.

        Args:
            x: Pixels [G, B, 3, H, W].
            labels: int64 [G * B].
        """
        moves = still((x.shape[-2], x.shape[-1]), len(x), x.device)
        cross_entropy, bn, _ = self._terms(x, labels, moves.boxes, moves.flips, moves.rolls)
        self.weight = self._spec.bn_ratio * float(cross_entropy.mean() / bn.mean())


class Objective:
    """The objective of recover. Use it in a `with` block, inside which it replaces layers of the networks.

        L = CE(f(x~), y) + a R_BN(x~) + a_l2 R_l2(x~) + a_tv R_TV(x~),  x~ = roll(flip(crop(x)))

    Args:
        classifiers: The teachers; pixels have the normalization of the first.
        spec: The recipe's section.
        engine: How networks compute.
        seed: The seed of the noise on which `bn_weight: auto` finds each teacher's weight.
        goals: With `statistics: class`, the class statistics of every teacher.

    Attributes:
        members: One member per teacher, inside the `with` block.

    Raises:
        UserError: If a network has no BatchNorm layer to match.
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
            networks = [
                stack.enter_context(matched(complete_network(each.model), relative)) for each in self._classifiers
            ]
            if not all(network.layers for network in networks):
                raise UserError(
                    "a teacher has no BatchNorm2d layer, but SRe2L recovers images from BatchNorm statistics; choose "
                    "another teacher"
                )
            self.members = [
                Member(classifier, network, self.classifier, self.spec, self._engine, goals)
                for classifier, network, goals in zip(self._classifiers, networks, self._goals, strict=True)
            ]
            self._open = stack.pop_all()
        if self.spec.bn_weight == "auto":
            self._find_weights()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _find_weights(self) -> None:
        """Find the BatchNorm weight of each teacher, on the same noise in every process."""
        weight, K = next(self.members[0].model.parameters()), len(self.classifier.class_names)
        labels = torch.arange(min(self.spec.class_block, K))
        if self.spec.statistics == "class":  # groups of one class, at most ten of ten images
            labels = torch.arange(min(10, K))[:, None].expand(-1, min(10, self.spec.ipc))
        draw = generator(self._seed, "recover", "bn_weight")
        noise = torch.randn(*labels.view(-1, labels.shape[-1]).shape, 3, *self.classifier.size, generator=draw)
        for member in self.members:
            member.find_weight(noise.to(weight), labels.flatten().to(weight.device))

    def __call__(self, x: Tensor, labels: Tensor, moves: Moves, t: int) -> tuple[Tensor, Terms]:
        """Compute the loss at iteration t.

        Args:
            x: Pixels [G, B, 3, H, W].
            labels: int64 [G * B].
            moves: The moves of this iteration.
            t: The iteration, which selects the teacher with `turns: cycle`.

        Returns:
            The loss [G], and its terms.
        """
        members = self.members
        if self.spec.turns == "cycle":
            members = [self.members[t % len(self.members)]]
        results = [member(x, labels, moves) for member in members]
        if len(results) == 1:
            return results[0]
        terms = {name: torch.stack([terms[name] for _, terms in results]).mean(0) for name in results[0][1]}
        return torch.stack([loss for loss, _ in results]).mean(0), terms


def image_priors(x: Tensor, spec: config.Recover, groups: int) -> Tensor:
    """Compute the weighted image priors [G] of moved images [G * B, 3, H, W]; 0 where both weights are 0."""
    total = torch.zeros(groups, device=x.device)
    if spec.l2_weight:
        total = total + spec.l2_weight * l2_prior(x, groups)
    if spec.tv_weight:
        total = total + spec.tv_weight * tv_prior(x, groups)
    return total


def channel_statistics(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Return a classifier's mean and standard deviation, each float64 [3, 1, 1]."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (classifier.mean, classifier.std))
    return mean, std
