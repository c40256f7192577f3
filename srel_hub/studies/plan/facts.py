"""The input (`Facts`) and the result (`Plan`) of planning a run."""

from dataclasses import dataclass

from torch import nn

from srel_hub.config import Recipe
from srel_hub.core.engine import Precision
from srel_hub.stages.preflight.disk_use import DiskUse


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices that a run is planned for.

    Attributes:
        devices: Number of devices, or of processes on a CPU, that share the work.
        precision: Precision of forward and backward passes.
        tflops: 10^12 floating-point operations per second that each device sustains in this precision.
        estimated: How `tflops` was estimated; None if the user set it.
        kind: 'cpu' or 'cuda'.
        memory: Bytes of memory of the host, or of each GPU.
        resident: Bytes of memory that the process already uses before a stage begins.
    """

    devices: int
    precision: Precision
    tflops: float
    estimated: str | None
    kind: str
    memory: int
    resident: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that affects the cost of a run.

    Attributes:
        recipe: The resolved recipe.
        num_classes: Number of classes of the condensed dataset.
        size: (height, width) of the condensed images in pixels.
        train_images: Images of the training split; None if no stage reads it.
        real_images: Images of a random real subset; None if students are not trained on any.
        eval_images: Images of the eval split; None if students are not evaluated.
        decoded_images: Number of decoded images that the run stores until it ends.
        networks: Every teacher on the meta device, by its folder in the run.
        machine: The devices that share the work.
    """

    recipe: Recipe
    num_classes: int
    size: tuple[int, int]
    train_images: int | None
    real_images: int | None
    eval_images: int | None
    decoded_images: int
    networks: dict[str, nn.Module]
    machine: Machine

    @property
    def condensed_images(self) -> int:
        """Number of images that the run makes."""
        return self.recipe.recover.ipc * self.num_classes

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one decoded RGB image."""
        return 3 * self.size[0] * self.size[1]

    @property
    def labellers(self) -> list[nn.Module]:
        """The networks that compute the soft labels, the teacher first."""
        return [self.networks[folder] for folder in self.recipe.label_folders]


@dataclass(frozen=True)
class StagePlan:
    """The cost of one stage.

    Attributes:
        name: The stage.
        units: Number of units of work. One device does each unit.
        flops: Floating-point operations of all units; a multiply-add counts as two.
        memory: Peak bytes of one process, on the host or on its GPU.
        hours: Time on all devices together.
    """

    name: str
    units: int
    flops: int
    memory: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        facts: The facts from which the plan was computed.
        images: Number of condensed images.
        pixel_bytes: Bytes of the condensed images, decoded.
        png_bytes: Upper bound of the bytes of the condensed images as PNG.
        label_bytes: Exact bytes of all stored soft labels, for each encoding.
        teacher_bytes: Exact bytes of each teacher's `model.safetensors`, by its folder in the run.
        files: Number of files in each folder of the dataset's repository; an upper bound for `data`.
        shards: Number of files in the run's `images/`.
        disk: Bytes that the run directory takes at its peak.
        stages: Squeeze, recover, relabel and evaluate.
    """

    facts: Facts
    images: int
    pixel_bytes: int
    png_bytes: int
    label_bytes: dict[str, int]
    teacher_bytes: dict[str, int]
    files: dict[str, int]
    shards: int
    disk: DiskUse
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        """Hours of all stages together."""
        return sum(stage.hours for stage in self.stages)
