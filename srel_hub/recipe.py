"""The recipe: one frozen, typed description of a run, read from YAML.

    python -m srel_hub.recipe show recipes/quickstart.yaml recover.iterations=100
    python -m srel_hub.recipe schema
    python -m srel_hub.recipe protocols
    python -m srel_hub.recipe reference

A recipe may name another to build on (`extends: base.yaml`, relative to itself or shipped), and the command line may
change single values (`key=value`; the value is text where the field is, else YAML). A leaf of the program receives
only its own section.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from srel_hub.faults import UserError, is_text, told
from srel_hub.reference import reference
from srel_hub.yaml_files import (
    Loader,
    find,
    first_comment,
    protocols,
    read,
    to_yaml,
    with_protocol,
)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    return value


Number = BeforeValidator(_no_bool)  # pydantic would read true as 1
Count = Annotated[int, Number, Field(ge=1)]
Whole = Annotated[int, Number, Field(ge=0)]
Group = Annotated[int, Number, Field(ge=2, le=1024)]
AtLeastTwo = Annotated[int, Number, Field(ge=2)]
Positive = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Number, Field(ge=1, le=32767)]
Roll = Annotated[int, Number, Field(ge=-32767, le=32767)]
Interval = tuple[Positive, Positive]
Width = Annotated[float, Number, Field(gt=0, le=64, allow_inf_nan=False)]
Threads = Annotated[int, Number, Field(ge=1, le=1024)]
Line = Annotated[str, Field(pattern=r"^[^\r\n]+$", title="one line of text")]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96, title="letters, digits and ._- (96 at most)"),
]
NETWORKS = (  # that have a name here
    *("resnet18", "resnet34", "resnet50", "resnet101", "convnet", "deit_tiny", "deit_small", "vit_base"),
    *("bn_vit_tiny", "bn_vit_small", "swin_tiny", "convnextv2_tiny", "regnet_x_8gf", "regnet_y_400mf"),
    *("mobilenet_v2", "efficientnet_b0"),
)

STRICT = ConfigDict(extra="forbid")
REF = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"  # a branch or tag that git takes
Ref = Annotated[str, Field(pattern=REF, title="a name that git takes")]
EXAMPLE_ID = "my-name/my-dataset"


class RecipeError(UserError):
    """All the faults of one recipe, a line each."""

    def __init__(self, name: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        head = f"{name}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in faults)]))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_interval(name: str, interval: tuple[float, float], highest: float = float("inf")) -> None:
    low, high = interval
    bound = "" if highest == float("inf") else f" <= {highest:g}"
    _require(low <= high <= highest, f"{name}=[{low:g}, {high:g}]: must be [low, high] with low <= high{bound}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The real dataset: `builtin: digits`, or a Hub id or local folder that `load_dataset` opens."""

    __pydantic_config__ = STRICT
    builtin: Literal["digits"] | None = None  # scikit-learn's, half of them for training; needs no download
    path: Line | None = None  # Hub id or local folder, in any layout that `load_dataset` opens
    config: Line | None = None  # of a Hub dataset that has several
    revision: Line | None = None  # branch, tag or commit of a Hub dataset
    streaming: Literal["auto"] | bool = "auto"  # read without a local copy; auto: splits above 20 GB
    train_split: Line | None = "train"  # null: not opened (a pretrained teacher needs none), no random real rows
    eval_split: Line | None = "test"  # null: the students are not evaluated
    image_column: Line | None = None  # found by its type when null
    label_column: Line | None = None  # found by its type when null; class labels, strings or whole numbers
    image_size: Side | None = None  # pixels a side, by resize and centre crop; null: the images' or teacher's own
    title: Line | None = None  # what the cards call the source; null: its path
    homepage: Line | None = None  # link on the cards
    license: Line = "unknown"  # of the source, as the Hub names it; a public push needs it
    terms: Line | None = None  # a sentence on the cards about what the licence asks for
    citation: str | None = None  # BibTeX, for the cards

    def __post_init__(self) -> None:
        _require(
            (self.builtin is None) != (self.path is None),
            f"exactly one of source.path (got {self.path!r}) and source.builtin (got {self.builtin!r}) must be set",
        )
        _require("```" not in (self.citation or ""), "citation: must not contain ```")
        _require(
            self.eval_split is None or self.eval_split != self.train_split,
            f"eval_split={self.eval_split}: is the training split, on which nothing can be scored; null does without",
        )


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A classifier that exists: a Hub id, a local folder or a .safetensors file with torchvision's ResNet names.

    A path alone may stand for the section: `pretrained: org/classifier`.
    """

    __pydantic_config__ = STRICT
    path: Line  # Hub id, local folder or file; a run's `teacher` folder too
    revision: Line | None = None  # branch, tag or commit on the Hub
    class_names: tuple[Line, ...] | None = None  # in the teacher's order, where its files do not name them


Teacher = Annotated[Pretrained, BeforeValidator(_path_alone)]


def _known_network(name: str) -> str:
    """Refuse what is neither a name of a network nor may be a place."""
    if name not in NETWORKS and "/" not in name and not is_local(name):
        nearest = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        raise ValueError(f"input should be one of {', '.join(NETWORKS)}, a Hub id or a folder{hint}, got {name!r}")
    return name


Model = Annotated[
    Line, AfterValidator(_known_network), Field(title=f"{', '.join(NETWORKS)}, a Hub id or a local folder")
]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier to train from scratch: one with a name here, or with the architecture (its config.json, not its
    weights) of a transformers classifier on the Hub or in a folder.

    `width` multiplies every layer's channels. A ResNet's stem is `small` (3x3 convolution, stride 1, no pooling: for
    32 and 64 pixels) or `imagenet` (7x7, stride 2, pooled: for 128 pixels and more, where the small one costs 15 times
    as much).
    """

    __pydantic_config__ = STRICT
    model: Model = "resnet18"  # elsewhere than here, its config.json is read, not its weights
    revision: Line | None = None  # branch, tag or commit of a Hub id
    width: Width = 1.0  # times every layer's channels
    stem: Literal["small", "imagenet"] = "small"  # a ResNet's: for 32 and 64 pixels, or for 128 and more

    def __post_init__(self) -> None:
        _require(
            self.stem == "small" or (self.is_named and self.model.startswith("resnet")),
            f"stem={self.stem}: only a ResNet has one to choose; leave it out of {self.model}",
        )
        _require(
            self.is_named or self.width == 1,
            f"width={self.width:g}: {self.model} is as wide as its config.json says; leave it out, or set 1",
        )
        _require(
            self.revision is None or not (self.is_named or is_local(self.model)),
            f"revision={self.revision}: {self.model} is not on the Hub and has none; leave it out",
        )

    @property
    def is_named(self) -> bool:
        """Whether it is one of ours."""
        return self.model in NETWORKS

    @property
    def shown(self) -> str:
        """The model as others may see it."""
        return self.model if self.is_named else public_name(self.model)

    @property
    def title(self) -> str:
        """'resnet18 x 0.25', 'org/classifier'."""
        return network_title(self.shown, self.width, self.stem)

    @property
    def name(self) -> str:
        """'resnet18-0.25', unlike any other network's; may name a file."""
        stem = "" if self.stem == "small" else f"-{self.stem}"
        model = re.sub(r"[^A-Za-z0-9._-]+", "--", self.shown)
        return f"{model}{stem}-{str(self.width).removesuffix('.0')}"


def network_title(model: str, width: float, stem: str = "small") -> str:
    """'resnet18 x 0.25', with the stem where it is not the small one; a network without a name here has no width."""
    if model not in NETWORKS:
        return model
    return f"{model} x {width:g}{'' if stem == 'small' else f' {stem} stem'}"


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to an image before a network sees it, each time anew.

    `resized` is torchvision's RandomResizedCrop, `padded` a crop of the image's own size out of the image with
    `padding` black pixels around it. A mix is applied to every image.
    """

    __pydantic_config__ = STRICT
    patches: Annotated[int, Number, Field(ge=1, le=16)] = 1  # a side; the image's patches are shuffled before the crop
    crop: Literal["none", "resized", "padded"] = "resized"  # a random box, enlarged, or a random shift
    scale: Interval = (0.08, 1.0)  # resized: the box's share of the image's area, at most 1
    ratio: Interval = (3 / 4, 4 / 3)  # resized: the box's width by its height
    padding: Side = 4  # padded: black pixels on each side
    flip: bool = True  # left to right, half of the time
    mix: Literal["none", "cutmix", "mixup"] = "none"  # of two images: a box of the other, or a blend
    mix_alpha: Positive = 1.0  # the share is drawn from Beta(alpha, alpha)

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)
        _check_interval("ratio", self.ratio)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD with momentum or AdamW, linear warm-up from a hundredth, then a cosine, stepped per epoch.

    The cosine is one to 0 over `smoothing` times the epochs, so that 2 ends at half of the learning rate.
    """

    __pydantic_config__ = STRICT
    kind: Literal["sgd", "adamw"] = "sgd"  # SGD with momentum, or AdamW
    lr: Positive = 0.1  # learning rate at the top of the schedule
    momentum: NonNegative = 0.9  # sgd only
    weight_decay: NonNegative = 5e-4  # AdamW's is decoupled
    decay_all: bool = True  # false: biases and BatchNorm parameters are not decayed
    warmup_epochs: Whole = 0  # from a hundredth of lr up to it
    smoothing: Annotated[float, Number, Field(ge=1, allow_inf_nan=False)] = 1.0  # 2: the cosine ends at half of lr


def _adamw() -> Optimizer:
    return Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)


def _check_warmup(optimizer: Optimizer, epochs: int) -> None:
    warmup = optimizer.warmup_epochs
    _require(warmup < epochs, f"optimizer.warmup_epochs={warmup}: must be less than epochs={epochs}")


@dataclass(frozen=True, kw_only=True)
class Squeeze:
    """The network that the images are recovered from: trained here, or `pretrained`, and then nothing is trained."""

    __pydantic_config__ = STRICT
    pretrained: Teacher | None = None  # a classifier that exists; null: `network` is trained
    trust_class_order: bool = False  # true: the teacher's class i is the dataset's class i, whatever the names say
    network: Network = field(default_factory=Network)  # what is trained
    epochs: Count = 200  # over the training split
    batch_size: AtLeastTwo = 128  # shared by all processes of a launch
    optimizer: Optimizer = field(default_factory=Optimizer)  # of the training
    augment: Augment = field(default_factory=lambda: Augment(crop="padded"))  # of the training images

    def __post_init__(self) -> None:
        if self.pretrained is None:
            _check_warmup(self.optimizer, self.epochs)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Square crops of real training images that the teacher knows best (RDED, section 3.2), enlarged to images."""

    __pydantic_config__ = STRICT
    images: Count = 300  # of each class, drawn at random, that are looked at
    crops: Annotated[int, Number, Field(ge=1, le=64)] = 5  # tried of each
    scale: Interval = (0.08, 1.0)  # share of an image's area that a crop is, at most 1
    keep: Literal["easiest", "median"] = "easiest"  # least cross-entropy, or nearest to the class's median confidence
    tiles: Annotated[int, Number, Field(ge=1, le=8)] = 1  # a side: an image is made of tiles x tiles crops

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Optimise pixels until logits and BatchNorm statistics match (SRe2L, section 3.2)."""

    __pydantic_config__ = STRICT
    ipc: Annotated[int, Number, Field(ge=1, le=100_000)]  # images per class
    patches: Patches | None = None  # of real images, to begin with; null: noise. {} takes the defaults
    teachers: tuple[Teacher, ...] = ()  # further networks that the images are to match, beside squeeze's
    turns: Literal["cycle", "committee"] = "cycle"  # of several: one an iteration, or the mean of all each time
    iterations: Count = 1000  # steps of Adam, over all stages
    sizes: tuple[Side, ...] = ()  # shorter side in each of so many equal stages, the last full; empty: one, full size
    residual: Annotated[float, Number, Field(ge=0, lt=1)] = 0.0  # share of the patches mixed in after every stage
    lr: Positive = 0.25  # Adam's at the start; a cosine takes it to 0
    bn_weight: NonNegative | Literal["auto"] = 0.01  # of the BatchNorm term; auto: found, on noise, for each teacher
    bn_ratio: Positive = 1.0  # auto: of the BatchNorm term to the cross-entropy, on noise
    bn_term: Literal["sum", "relative"] = "sum"  # relative: each layer by its own statistics, mean over layers
    first_bn_factor: NonNegative = 10.0  # of the first BatchNorm layer's distance; the others' is 1
    statistics: Literal["dataset", "class"] = "dataset"  # class: a class's images by that class's real statistics
    statistics_images: Count = 1000  # class: of each class, drawn at random, whose statistics are measured
    class_block: AtLeastTwo = 100  # dataset: classes optimised, and matched to the statistics, together
    stack: Count | Literal["auto"] = "auto"  # groups per forward pass: ipc indices, or classes where statistics=class
    per_image: bool = False  # true: each image has its own crop, flip and roll; false: an ipc index shares them
    crop: Literal["none", "resized"] = "resized"  # before each look; `resized`: a random box, enlarged
    scale: Interval = (0.08, 1.0)  # of the box's area to the image's, at most 1
    curriculum: Literal["none", "cosine", "linear", "step"] = "none"  # of the lower scale, from the upper one down
    milestone: Annotated[float, Number, Field(gt=0, le=1)] = 1.0  # share of the iterations after which it is down
    ratio: Interval = (3 / 4, 4 / 3)  # of the box's width to its height
    flip: bool = True  # left to right, half of the time, before each look
    roll: tuple[Roll, Roll] = (0, 0)  # shift in pixels along each axis, both ends included
    l2_weight: NonNegative = 0.0  # of the images' norms
    tv_weight: NonNegative = 0.0  # of the differences between neighbouring pixels

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)
        _check_interval("ratio", self.ratio)
        _check_interval("roll", self.roll)
        _require(
            self.residual == 0 or self.patches is not None,
            f"residual={self.residual:g}: there is nothing to mix in without patches; set recover.patches={{}}",
        )
        _require(
            self.curriculum == "none" or self.crop == "resized",
            f"curriculum={self.curriculum}: is of the crop, and crop is none; set recover.crop=resized",
        )
        _require(
            len(self.sizes) <= self.iterations,
            f"sizes: {len(self.sizes)} stages in {self.iterations} iterations; each needs one",
        )

    @property
    def reads_real(self) -> bool:
        """Whether it looks at real images."""
        return self.patches is not None or self.statistics == "class"


@dataclass(frozen=True, kw_only=True)
class Relabel:
    """Store the teacher's logits for `epochs` differently augmented views of every condensed image."""

    __pydantic_config__ = STRICT
    teacher: Teacher | None = None  # who labels; null: the network that the images were recovered from
    committee: tuple[Teacher, ...] = ()  # further networks, whose logits are averaged with the teacher's
    group_size: Group | None = None  # images whose BatchNorm statistics the teacher uses; null: its own, eval mode
    epochs: Count = 300  # stored; a student that trains longer uses them again
    pool: Literal["cycle", "draw"] = "cycle"  # how it does: in turn, or one drawn at random for each of its epochs
    batch_size: Count = 256  # images that the teacher is shown at a time
    augment: Augment = field(default_factory=Augment)  # the views that are labelled
    encoding: Literal["float16", "uint8", "topk", "none"] = "float16"  # none: nothing is stored, the teacher is asked
    top_k: Count = 100  # topk: logits of an image that are kept; of the others their mean
    top_values: Literal["float16", "uint8"] = "float16"  # topk: what they are stored as

    def __post_init__(self) -> None:
        _require(
            self.augment.patches == 1 or self.encoding == "none",
            f"augment.patches={self.augment.patches}: labels of shuffled patches cannot be stored; set encoding: none",
        )


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


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Where the dataset and its teacher go on the Hub; without a `repo_id` nothing is pushed."""

    __pydantic_config__ = STRICT
    repo_id: str | None = None  # the dataset, as namespace/name; null: nothing is pushed
    teacher_repo_id: str | None = None  # null: repo_id with '-teacher' appended
    private: bool = True  # false: for all to see, which needs source.license
    revision: Ref | None = None  # branch to push to; null: main
    create_pr: bool = False  # open a pull request on each repository; it gets no tag
    tag: Ref | None = "v1.0"  # of both repositories; a tag never moves
    commit_message: Line | None = None  # null: "Publish with srel_hub"
    collection: Line | None = None  # title, or slug, of a collection to add both repositories to
    dry_run: bool = False  # show the plan, push nothing

    def __post_init__(self) -> None:
        for field_name, repo_id in (("repo_id", self.repo_id), ("teacher_repo_id", self.teacher_repo_id)):
            if repo_id is not None:
                _require(
                    repo_id.count("/") == 1, f"{field_name}={repo_id}: must be namespace/name, such as {EXAMPLE_ID}"
                )
                try:
                    validate_repo_id(repo_id)
                except HFValidationError as error:
                    raise ValueError(f"{field_name}={repo_id}: {error}") from error
        _require(
            not (self.create_pr and self.revision),
            f"create_pr=true and revision={self.revision}: a pull request makes its own branch; leave one of them out",
        )
        for name, ref in (("tag", self.tag), ("revision", self.revision)):
            _require(not re.fullmatch("[0-9a-f]{40}", ref or ""), f"{name}={ref}: would be taken for a commit")
        _require(self.tag != (self.revision or "main"), f"tag={self.tag}: is the branch's name")

    @property
    def teacher(self) -> str | None:
        """The teacher's repository."""
        return self.teacher_repo_id or (self.repo_id and f"{self.repo_id}-teacher")

    @property
    def pinned(self) -> str | None:
        """The tag that the push makes; none on a pull request."""
        return None if self.create_pr else self.tag


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


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: a YAML file, the name of a shipped recipe, or a run directory (its `recipe.yaml` is read).
        overrides: `dotted.key=value` pairs; the value is text where the field is, else YAML.

    Raises:
        RecipeError: with every fault at once, each by dotted name, value, what is allowed and the nearest name.
    """
    return validated(read_recipe(path), overrides, str(path))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe's mapping, named and merged over what it extends, not validated yet."""
    file = find(path)
    return {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "-", file.stem).strip("-") or "run",
        **read(file),
    }


def validated(mapping: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    """The recipe of a mapping, which is changed. `name` is what a mistake is told of."""
    asked = [override for override in overrides if override.startswith("protocol=")]
    faults = [fault for override in asked if (fault := _apply(mapping, override))]
    if asked and not faults:
        mapping = dict(with_protocol(mapping, mapping))
    rest = [override for override in overrides if override not in asked]
    faults += [fault for override in rest if (fault := _apply(mapping, override))]
    if mapping.pop("sweep", None) is not None:
        faults.append(f"sweep: is for a table of runs: python -m srel_hub.sweep {name}")
    try:
        recipe = TypeAdapter(Recipe).validate_python(mapping)
    except ValidationError as error:
        raise RecipeError(name, faults + told(error, Recipe)) from None
    if faults:
        raise RecipeError(name, faults)
    return recipe


def _apply(mapping: dict[str, Any], override: str) -> str | None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override!r}: an override is key=value, for example recover.iterations=500"
    if not text.strip():
        return f"{key}: no value is given; null empties a field"
    *sections, leaf = key.split(".")
    as_text = is_text(Recipe, key.split(".")) and text != "null" and text[0] not in "'\""
    for section in sections:
        if not isinstance(mapping.setdefault(section, {}), dict):
            return f"{key}: {section!r} is no section"
        mapping = mapping[section]
    try:
        mapping[leaf] = text if as_text else yaml.load(text, Loader)  # noqa: S506
    except yaml.YAMLError:
        return f"{key}={text}: the value is not valid YAML; quote it"
    return None


def as_dict(recipe: Any) -> dict[str, Any]:
    """A recipe, or a section of one, as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), allow_nan=False))
    return plain


def canonical(value: Any) -> str:
    """Canonical JSON of a section or of plain values: sorted keys, no spaces."""
    plain = as_dict(value) if dataclasses.is_dataclass(value) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def published(recipe: Recipe) -> dict[str, Any]:
    """The recipe as others may see it: how it was made, not where; local paths are named by their last part only."""
    plain = as_dict(recipe)
    del plain["run"], plain["publish"]
    further = (plain["relabel"]["teacher"], *plain["relabel"]["committee"], *plain["recover"]["teachers"])
    for section in (plain["source"], plain["squeeze"]["pretrained"], *further):
        if section is not None and section["path"] is not None:
            section["path"] = public_name(section["path"])
    for network, shown in (
        (recipe.squeeze.network, plain["squeeze"]["network"]),
        *zip(recipe.evaluate.students, plain["evaluate"]["students"], strict=True),
    ):
        shown["model"] = network.shown
    return plain


def is_local(path: str) -> bool:
    """Whether a path means a place on this machine, not a Hub id."""
    return path.startswith(("/", "~", ".")) or Path(path).exists()


def public_name(path: str) -> str:
    """A Hub id as it is, a local path without the folders above."""
    return Path(path).resolve().name if is_local(path) else path


def main(argv: Sequence[str]) -> int:
    usage = "usage: python -m srel_hub.recipe show FILE [key=value ...] | schema | protocols | reference"
    try:
        if argv[:1] == ["schema"] and len(argv) == 1:
            print(json.dumps(TypeAdapter(Recipe).json_schema(), indent=2))
        elif argv == ["reference"]:
            print(reference(Recipe), end="")
        elif argv == ["protocols"]:
            print("\n".join(f"{name:<12} {first_comment(name)}" for name in protocols()))
        elif argv[:1] == ["show"] and len(argv) >= 2:
            recipe = load_recipe(argv[1], argv[2:])
            print(f"# fingerprint {fingerprint(recipe)}\n{to_yaml(as_dict(recipe))}", end="")
        else:
            raise UserError(usage)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
