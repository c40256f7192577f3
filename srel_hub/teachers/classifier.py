"""Classifiers: save and load them with their class names, normalization and image processor."""

import contextlib
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

import srel_hub.models  # noqa: F401
from srel_hub.core.augment import normalization_table
from srel_hub.errors import UserError, first_line
from srel_hub.storage.decode import BILINEAR, Frame


@dataclass(frozen=True)
class Classifier:
    """A network with what is needed to use it.

    Attributes:
        mean, std: per RGB channel, in [0, 1].
        class_names: by index.
        size: (height, width) of the images it takes.
        resize: pixels that a larger image's shorter side is brought to before its center is cut out (picture.Frame).
        resample: Pillow's number of the filter that it is resized with.
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
        return Frame(self.size, self.resize, self.resample)

    @property
    def parameter_bytes(self) -> int:
        """As float32."""
        return 4 * sum(parameter.numel() for parameter in self.model.parameters())

    def table(self, device: torch.device) -> Tensor:
        """The normalization as float32 [3, 256] (augment.normalize)."""
        return normalization_table(self.mean, self.std).to(device)


def label_maps(class_names: Sequence[str]) -> dict[str, Any]:
    """What a transformers config says of its classes."""
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


def save(classifier: Classifier, folder: Path) -> None:
    """Write config, safetensors weights, image processor and, for our own networks, their source file."""
    model: Any = classifier.model
    if type(model).__module__.startswith("srel_hub."):
        type(model).register_for_auto_class("AutoModelForImageClassification")
        type(model.config).register_for_auto_class()
    for name, value in label_maps(classifier.class_names).items():
        setattr(model.config, name, value)
    model.to(memory_format=torch.contiguous_format).save_pretrained(folder)
    _processor(classifier).save_pretrained(folder)


def _processor(classifier: Classifier) -> Any:
    height, width = classifier.size
    shared: dict[str, Any] = {
        "image_mean": list(classifier.mean),
        "image_std": list(classifier.std),
        "resample": classifier.resample,
    }
    if classifier.resize is None:
        return ViTImageProcessorPil(size={"height": height, "width": width}, **shared)
    crop = {"height": height, "width": width}
    return BitImageProcessorPil(size={"shortest_edge": classifier.resize}, crop_size=crop, **shared)


@contextlib.contextmanager
def hide_loading_bars() -> Iterator[None]:
    """Hide the progress bars of transformers and huggingface_hub inside the block; both settings are restored.

    A network of ours loads in a moment, and a bar for its weights would break into the bar of the stage.
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
        UserError: as `load`.
    """
    return [load(folder, device) for folder in folders]


def load(folder: Path, device: torch.device) -> Classifier:
    """Load a saved classifier in eval mode, in float32, with frozen weights. Whoever made it, no code of theirs runs.

    Raises:
        UserError: where the folder holds none, or not all of its weights.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError("its weights are quantized")
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        with hide_loading_bars():
            model, found = AutoModelForImageClassification.from_pretrained(
                folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        if found["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(found['missing_keys'])[:3])}")
        resized, shown = processor.size, processor.crop_size or processor.size
        model.requires_grad_(False)
        return Classifier(
            model=model.eval().to(device),
            mean=_three(processor.image_mean),
            std=_three(processor.image_std),
            class_names=tuple(str(config.id2label[index]) for index in range(config.num_labels)),
            size=(int(shown["height"]), int(shown["width"])),
            resize=resized.get("shortest_edge"),
            resample=int(processor.resample),
        )
    except Exception as error:  # whatever a stranger's files make transformers stumble over
        raise UserError(f"{folder}: no classifier that transformers can load: {first_line(error)}") from error


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
