"""config.schema."""

from dataclasses import dataclass, field
from typing import Literal

from srel_hub.config.evaluate import Evaluate
from srel_hub.config.fields import STRICT, Line, Name, Threads, Whole, _require
from srel_hub.config.publish import Publish
from srel_hub.config.recover import Recover
from srel_hub.config.relabel import Relabel
from srel_hub.config.source import Source
from srel_hub.config.squeeze import Squeeze


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how the run works; no part of the published recipe. All but the first three hold for one command."""

    __pydantic_config__ = STRICT
    root: str = "runs"  # folder of run directories
    cpu_threads: Threads | Literal["auto"] = "auto"  # of each process; auto: the machine's cores shared among them
    compile: bool = False  # true: networks by torch.compile, on GPUs as CUDA graphs
    cooperate: bool = False  # true: work on a run directory beside another launch
    overwrite: bool = False  # true: redo the stages whose recipe changed, in place of what is there
    check: Literal["fast", "full"] = "fast"  # of files that are there: size and time of change, or their digest
    trackers: tuple[Literal["trackio", "tensorboard", "wandb"], ...] = ()  # that metrics also go to


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. `name` names the run directory and defaults to the recipe file's name."""

    __pydantic_config__ = STRICT
    name: Name  # of the run directory; the recipe file's name where it is not set
    seed: Whole = 0  # of everything that is drawn
    protocol: Line | None = None  # what `relabel` and `evaluate` begin with; `srel_hub.recipe protocols` lists them
    precision: Literal["float32", "bfloat16", "auto"] = "auto"  # auto: bfloat16 where the hardware has it
    pictures: bool = True  # drawn for the card, where matplotlib and scikit-learn are installed
    source: Source  # the real dataset
    squeeze: Squeeze = field(default_factory=Squeeze)  # the first stage: the teacher
    recover: Recover  # the second: the images
    relabel: Relabel = field(default_factory=Relabel)  # the third: the labels
    evaluate: Evaluate = field(default_factory=Evaluate)  # the fourth: students
    publish: Publish = field(default_factory=Publish)  # the last: the Hub
    run: RunSettings = field(default_factory=RunSettings)  # where and how it runs

    def __post_init__(self) -> None:
        _require(
            self.source.train_split is not None or self.squeeze.pretrained is not None,
            "source.train_split: null, but squeeze trains on it; name the split, or set squeeze.pretrained",
        )
        _require(
            not self.evaluate.scores
            or (self.evaluate.baselines and None not in (self.source.train_split, self.source.eval_split)),
            "evaluate.scores=true: needs source.train_split, source.eval_split and evaluate.baselines",
        )
        _require(
            self.recover.patches is None or self.source.train_split is not None,
            "recover.patches: are cut out of the training split, and source.train_split is null; name it, or start "
            "from noise with recover.patches=null",
        )
        _require(
            self.recover.statistics == "dataset" or self.source.train_split is not None,
            "recover.statistics=class: are measured on the training split, and source.train_split is null; name it, "
            "or set recover.statistics=dataset",
        )
        size, batch = self.relabel.group_size, self.evaluate.batch_size
        _require(
            not self.evaluate.groups or (size is not None and batch % size == 0),
            f"evaluate.groups=true: a batch must be of whole groups; relabel.group_size={size}, "
            f"evaluate.batch_size={batch}",
        )

    @property
    def opens_train(self) -> bool:
        """Whether any stage needs the training split: to squeeze, for what recover asks of real images, for evaluate's
        real rows."""
        measures = self.source.eval_split is not None and self.evaluate.baselines
        needed = self.squeeze.pretrained is None or self.recover.reads_real or measures
        return needed and self.source.train_split is not None

    @property
    def recover_folders(self) -> tuple[str, ...]:
        """The run's folders of all classifiers that the images match, squeeze's first."""
        return ("teacher", *(f"recover_teacher-{index + 1}" for index in range(len(self.recover.teachers))))

    @property
    def label_folder(self) -> str:
        """The run's folder of the classifier that labels."""
        return "teacher" if self.relabel.teacher is None else "label_teacher"

    @property
    def label_folders(self) -> tuple[str, ...]:
        """The run's folders of all classifiers that label, the teacher's first."""
        return (self.label_folder, *(f"label_committee-{index + 1}" for index in range(len(self.relabel.committee))))
