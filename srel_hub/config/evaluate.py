"""config.evaluate."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from srel_hub.config.fields import STRICT, AtLeastTwo, Count, NonNegative, Number, Positive, _require
from srel_hub.config.networks import Network
from srel_hub.config.training import Optimizer, _adamw, _check_warmup


@dataclass(frozen=True, kw_only=True)
class Cooling:
    """The teacher's temperature falls by `factor` every `every` epochs, down to `floor` (LPQLD's schedule)."""

    __pydantic_config__ = STRICT
    factor: Annotated[float, Number, Field(gt=0, lt=1)] = 0.7  # of one fall
    every: Count = 30  # epochs between two falls
    floor: Positive = 2.0  # it falls no further


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Train students from scratch on the replayed labels and on random real images, `seeds` times each."""

    __pydantic_config__ = STRICT
    students: Annotated[tuple[Network, ...], Field(min_length=1)] = (Network(),)  # each is trained on every row
    seeds: Count = 3  # trainings of each student on each row
    baselines: bool = True  # false: no random real rows; the card says that they are not measured
    scores: bool = False  # true: also the rows that the scores of DD-Ranking need, one of them on all real images
    epochs: Count = 300  # of a training; scored after the last
    batch_size: AtLeastTwo = 128  # images of a step
    groups: bool = False  # true: within a batch, BatchNorm sees the groups that the teacher saw (relabel.group_size)
    loss: Literal["kl", "mse", "hard"] = "kl"  # to the teacher's logits; hard: cross-entropy with the classes
    hard_weight: NonNegative = 0.0  # of the cross-entropy with the classes beside a soft loss
    temperature: Positive = 20.0  # kl: of teacher and student
    student_temperature: Positive | None = None  # kl: of the student, if another
    cooling: Cooling | None = None  # kl: of the teacher's temperature
    temperature_squared: bool = False  # kl: times the temperature squared (Hinton et al., 2015)
    optimizer: Optimizer = field(default_factory=_adamw)  # of the students
    ema: Annotated[float, Number, Field(gt=0, lt=1)] | None = None  # decay of averaged weights, which are then scored

    def __post_init__(self) -> None:
        _check_warmup(self.optimizer, self.epochs)
        _require(
            self.loss != "hard" or self.hard_weight == 0,
            f"hard_weight={self.hard_weight:g}: with loss=hard there is no other loss; leave it out",
        )
        names = [student.name for student in self.students]
        _require(len(set(names)) == len(names), "students: the same student is listed twice")
