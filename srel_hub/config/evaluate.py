"""The recipe's section `evaluate`: the students that are trained on the condensed dataset."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from srel_hub.config.fields import STRICT, AtLeastTwo, Count, NonNegative, Number, Positive, require
from srel_hub.config.networks import Network
from srel_hub.config.training import Optimizer, adamw, check_warmup


@dataclass(frozen=True, kw_only=True)
class Cooling:
    """A teacher's temperature that falls in steps (LPQLD)."""

    __pydantic_config__ = STRICT

    factor: Annotated[float, Field(gt=0, lt=1), Number] = 0.7
    """Factor on the temperature at each step."""

    every: Count = 30
    """Epochs between two steps."""

    floor: Positive = 2.0
    """Lowest temperature."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Train students from scratch on the condensed images and, for comparison, on random real images."""

    __pydantic_config__ = STRICT

    students: Annotated[tuple[Network, ...], Field(min_length=1)] = (Network(),)
    """Networks to train, each on every training set."""

    seeds: Count = 3
    """Trainings of each student on each training set. Cards report mean and standard deviation."""

    baselines: bool = True
    """Whether to train on random real images too. false: the card says that this was not measured."""

    scores: bool = False
    """Whether to run the trainings that the scores of DD-Ranking (Li et al., 2025) need. One of them uses all real
    images. Requires `baselines` and both splits."""

    epochs: Count = 300
    """Epochs of each training. The score is that of the last epoch."""

    batch_size: AtLeastTwo = 128
    """Images of an optimizer step."""

    groups: bool = False
    """Whether BatchNorm computes its statistics over the same groups of images as the teacher did. Requires
    `relabel.group_size`, of which `batch_size` must be a multiple."""

    loss: Literal["kl", "mse", "hard"] = "kl"
    """`kl`: KL divergence from the teacher's softened predictions. `mse`: mean squared error of the logits. `hard`:
    cross-entropy with the true classes, without soft labels."""

    hard_weight: NonNegative = 0.0
    """Weight of the cross-entropy with the true classes, added to a `kl` or `mse` loss."""

    temperature: Positive = 20.0
    """Temperature of the softmax of teacher and student. Only for `loss: kl`."""

    student_temperature: Positive | None = None
    """Temperature of the student's softmax. null: the teacher's. Only for `loss: kl`."""

    cooling: Cooling | None = None
    """Lower the teacher's temperature during the training. null: keep it constant. Only for `loss: kl`."""

    temperature_squared: bool = False
    """Whether to multiply the loss by the squared temperature (Hinton et al., 2015). Only for `loss: kl`."""

    optimizer: Optimizer = field(default_factory=adamw)
    """Optimizer and learning rate schedule of the students."""

    ema: Annotated[float, Field(gt=0, lt=1), Number] | None = None
    """Decay per step of an exponential moving average of the weights, which is scored instead of the last weights
    (EDC). null: no average."""

    def __post_init__(self) -> None:
        check_warmup(self.optimizer, self.epochs)
        require(
            self.loss != "hard" or self.hard_weight == 0,
            f"hard_weight={self.hard_weight:g}: loss=hard is already the cross-entropy alone; remove hard_weight",
        )
        names = [student.name for student in self.students]
        # Results are stored by this name.
        duplicates = sorted({name for name in names if names.count(name) > 1})
        require(not duplicates, f"students: {', '.join(duplicates)} listed twice; remove one")
