"""Save and load classifiers with their class names, normalization and image processor."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

import srel_hub.models  # noqa: F401  (registers our networks with the Auto classes)
from srel_hub.core.augment import normalization_table
from srel_hub.errors import CodeNeededError, UserError, first_line
from srel_hub.models import own
from srel_hub.storage.decode import BILINEAR, Frame
from srel_hub.teachers.class_subset import CLASS_COLUMNS, class_columns, complete, read_columns, with_columns


SAME_LOGITS = 1e-3  # of the largest logit; another order of float32 sums changes about 1e-6 of it


@dataclass(frozen=True)
class Classifier:
    """A network with its class names, normalization and image size.

    Attributes:
        model: maps normalized pixel values float [B, 3, H, W] to an output with `logits` [B, K].
        mean: mean of each RGB channel, in [0, 1].
        std: standard deviation of each RGB channel, in [0, 1].
        class_names: names of the K classes, by index.
        size: (height, width) of its images, in pixels.
        resize: pixels of the shorter side to which a larger image is resized before its center is cut out
            (decode.Frame), or None.
        resample: Pillow's number of the resampling filter.
    """

    model: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    size: tuple[int, int]
    resize: int | None = None
    resample: int = BILINEAR

    @property
    def frame(self) -> Frame:
        """Return how an image is resized for the classifier."""
        return Frame(self.size, self.resize, self.resample)

    def table(self, device: torch.device) -> Tensor:
        """Return the normalization of every byte value, float32 [3, 256], for `augment.normalize`."""
        return normalization_table(self.mean, self.std).to(device)


def label_maps(class_names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a transformers config that name its classes."""
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


@torch.no_grad()
def check_forward(model: nn.Module, images: Tensor, num_classes: int, where: str) -> Tensor:
    """Run a model on images, float [B, 3, H, W], on their device, which may be `meta`.

    Returns:
        the logits [B, num_classes].

    Raises:
        UserError: if the model cannot process images of this size, or returns another number of logits. The message
            begins with `where`.
    """
    count, height, width = images.shape[0], *images.shape[2:]
    try:
        logits: Tensor = model(images).logits
    except own.OwnNetworkError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # an own network's code may raise anything
        reason = _own_reason(model, error) or first_line(error)
        shown = f"{f'{count} ' if count > 1 else ''}images of {width} x {height} pixels"
        raise UserError(f"{where}: the network cannot process {shown}: {reason}") from None
    if logits.shape != (count, num_classes):
        raise UserError(
            f"{where}: the network returns logits of shape {list(logits.shape)}, but must return "
            f"[{count}, {num_classes}]"
        )
    return logits


@torch.no_grad()
def require_repeatable(model: nn.Module, num_classes: int, size: tuple[int, int], where: str) -> None:
    """Check that the logits of an image depend on this image alone. Otherwise stored labels could not be verified.

    Four random images are shown to the model together, together once more, and one by one.

    Args:
        model: a network on the CPU, in eval mode.
        num_classes: K.
        size: (height, width) of its images, in pixels.
        where: the recipe's field, which begins the message.

    Raises:
        UserError: if the logits differ, or the network cannot process several images at once.
    """
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that a network is refused always or never
        first, again = (check_forward(model, images, num_classes, where) for _ in range(2))
        alone = torch.cat([check_forward(model, image[None], num_classes, where) for image in images])
    tolerance = SAME_LOGITS * float(first.abs().max())
    reasons = (
        (again, "differ when it sees the same images again; remove what is random in eval mode, such as dropout"),
        (
            alone,
            "of an image depend on the other images in the batch; use layers that normalize with running statistics, "
            "such as BatchNorm2d with track_running_stats=True",
        ),
    )
    for logits, reason in reasons:
        if not torch.allclose(logits, first, rtol=0, atol=tolerance, equal_nan=True):
            raise UserError(f"{where}: its logits {reason}")


def _own_reason(model: nn.Module, error: Exception) -> str | None:
    """Return the error and the line of the user's file that caused it, for an own network."""
    if not isinstance(model, own.SrelOwnForImageClassification):
        return None
    reason = own.describe(error, own.allowed_file(model.config.factory))
    if "meta" in str(error):  # the network is run without weights first, to count what it costs
        reason += (
            "; `forward` must work for tensors on the meta device, which have no values: keep constants in buffers"
        )
    return reason


def network_name(model: nn.Module) -> str:
    """Return the class of a network, for messages and cards; of an own network, the class of the user's module."""
    return type(model.network if isinstance(model, own.SrelOwnForImageClassification) else model).__name__


def factory_of(model: nn.Module) -> str | None:
    """Return the factory of an own network, such as `my_net:build`; None for any other network."""
    return str(model.config.factory) if isinstance(model, own.SrelOwnForImageClassification) else None


def save(classifier: Classifier, folder: Path) -> None:
    """Write config, safetensors weights, image processor and the source file of a network that transformers lacks.

    The source file of one of srel_hub's networks lets transformers load it without srel_hub (`trust_remote_code=True`).
    That of an own network is a copy of the user's file. It is for people to read, and is never run from the folder.

    If the classifier uses only some of its network's classes, the complete network is written. Its config lists them.
    """
    columns, classifier = class_columns(classifier), complete(classifier)
    model: Any = classifier.model
    factory = factory_of(model)
    if factory is None and type(model).__module__.startswith("srel_hub."):
        type(model).register_for_auto_class("AutoModelForImageClassification")
        type(model.config).register_for_auto_class()
    for name, value in label_maps(classifier.class_names).items():
        setattr(model.config, name, value)
    vars(model.config).pop(CLASS_COLUMNS, None)  # those of another dataset
    if columns is not None:
        model.config.class_columns = list(columns)
    # safetensors refuses tensors that are not contiguous, as channels_last weights are.
    with hide_loading_bars():
        model.to(memory_format=torch.contiguous_format).save_pretrained(folder)
    if factory is not None:
        source = own.allowed_file(factory)
        shutil.copyfile(source, folder / source.name)
    _processor(classifier).save_pretrained(folder)


def _processor(classifier: Classifier) -> Any:
    """Return the image processor that frames and normalizes images as the classifier expects."""
    height, width = classifier.size
    shared: dict[str, Any] = {
        "image_mean": list(classifier.mean),
        "image_std": list(classifier.std),
        "resample": classifier.resample,
    }
    if classifier.resize is None:
        return ViTImageProcessorPil(size={"height": height, "width": width}, **shared)
    # A ViT's processor has no crop; BiT's resizes the shorter side and then crops the center.
    crop = {"height": height, "width": width}
    return BitImageProcessorPil(size={"shortest_edge": classifier.resize}, crop_size=crop, **shared)


@contextlib.contextmanager
def hide_loading_bars() -> Iterator[None]:
    """Hide the progress bars of transformers and huggingface_hub inside the `with` block, and restore both after it.

    A network loads or saves in a moment, and a bar for its weights would interrupt the bar of the stage.
    """
    loading, downloading = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # of huggingface_hub too
    try:
        yield
    finally:
        if loading:
            logging.enable_progress_bar()  # of huggingface_hub too
        if downloading:
            enable_progress_bars()
        else:
            disable_progress_bars()


def load_classifiers(folders: Iterable[Path], device: torch.device) -> list[Classifier]:
    """Load several saved classifiers, in the order of their folders.

    Raises:
        UserError: if a folder has no classifier that can be loaded (`load`).
    """
    return [load(folder, device) for folder in folders]


def load(folder: Path, device: torch.device) -> Classifier:
    """Load a saved classifier in eval mode, in float32, with frozen weights. Code in the folder is never executed.

    If its config lists the classes of a dataset (`class_subset`), the classifier has these classes only.

    Raises:
        UserError: if the folder has no classifier that transformers can load, or some of its weights are missing, or
            its network needs code that is not allowed (then a CodeNeededError).
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError("its weights are quantized")
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        with hide_loading_bars():
            model, info = AutoModelForImageClassification.from_pretrained(
                folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        if info["missing_keys"]:  # transformers would fill them with random numbers
            raise ValueError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
        resized, cropped = processor.size, processor.crop_size or processor.size
        model.requires_grad_(False)
        columns = read_columns(config)
        whole = Classifier(
            model=model.eval().to(device),
            mean=_per_channel(processor.image_mean),
            std=_per_channel(processor.image_std),
            class_names=tuple(str(config.id2label[index]) for index in range(config.num_labels)),
            size=(int(cropped["height"]), int(cropped["width"])),
            resize=resized.get("shortest_edge"),
            resample=int(processor.resample),
        )
        return whole if columns is None else with_columns(whole, columns)
    except own.NotAllowedError as error:
        raise CodeNeededError(f"{folder}: {error}") from None
    except own.OwnNetworkError as error:
        raise UserError(f"{folder}: {error}") from None
    except Exception as error:  # files from elsewhere make transformers raise almost any exception
        raise UserError(f"{folder}: transformers cannot load a classifier from it: {first_line(error)}") from error


def _per_channel(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
