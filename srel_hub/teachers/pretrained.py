"""Teachers that exist: found on the Hub or on disk, converted where need be, and brought to our conventions.

What a teacher's image processor does to colors is measured on three plain pictures instead of read from its settings,
which every family spells its own way (MobileViT swaps red and blue, EfficientNet divides by the deviation twice).
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from srel_hub.config import Pretrained, is_local, public_name
from srel_hub.errors import UserError, first_line
from srel_hub.storage.decode import BILINEAR, Frame
from srel_hub.storage.files import sha256
from srel_hub.teachers.classifier import Classifier, hide_loading_bars
from srel_hub.teachers.torchvision_weights import convert, is_torchvision_resnet


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_FRAME = Frame((224, 224), 256)  # what torchvision's weights were scored with
FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
WITHOUT_BATCHNORM = "SRe2L recovers images from BatchNorm statistics; choose a teacher with BatchNorm2d layers"
Color = tuple[float, float, float]  # one value a channel
COLORS = ((0, 0, 0), (255, 255, 255), (255, 0, 0))


@dataclass(frozen=True)
class Origin:
    """Where a teacher came from: a Hub id with its commit, or the last part of a local path; sha256 of its weights."""

    path: str
    revision: str | None
    sha256: dict[str, str]


def load_pretrained(spec: Pretrained, field: str) -> tuple[Classifier, Origin]:
    """The classifier, on the CPU, in eval mode and float32, with frozen weights, for RGB images.

    Args:
        field: the recipe's name of this teacher, for messages.

    Raises:
        UserError: where there is no such classifier, or it cannot be used.
    """
    where = f"{field}={spec.path}"
    place = fetch(spec, where)
    weights = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{where}: no .safetensors weights there (pickled ones are never loaded)")
    settings = _settings(place / "config.json", where) if (place / "config.json").is_file() else {}
    if "model_type" in settings:
        classifier = _from_transformers(place, settings["model_type"], where)
    else:
        classifier = _from_torchvision(weights, settings, where)
    classifier.model.eval().requires_grad_(False)
    for name, tensor in classifier.model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: its weights {name} hold NaN or infinity; it is no trained classifier")
    if spec.class_names is not None:
        if len(spec.class_names) != len(classifier.class_names):
            given, has = len(spec.class_names), len(classifier.class_names)
            raise UserError(f"{where}: it has {has} classes, {field}.class_names names {given}")
        classifier = replace(classifier, class_names=spec.class_names)
    revision = None if is_local(spec.path) else place.name  # a snapshot's folder is named by its commit
    origin = Origin(public_name(spec.path), revision, {file.name: sha256(file) for file in weights})
    return classifier, origin


def fetch(spec: Pretrained, where: str, files: Sequence[str] = FILES) -> Path:
    """The local folder or file; of a Hub repository these files.

    Raises:
        UserError: where there is none, or it may not be read.
    """
    path = Path(spec.path).expanduser()
    if path.exists():
        if spec.revision is not None:
            raise UserError(f"{where}: it is local and has no revision {spec.revision}; leave that out")
        if path.is_file() and path.suffix != ".safetensors":
            raise UserError(f"{where}: only .safetensors files are read (a pickled one could run code)")
        return path
    if is_local(spec.path):
        raise UserError(f"{where}: there is no such folder or file")
    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        with hide_loading_bars():
            return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(files)))
    except GatedRepoError:
        reason = f"gated on the Hub. Ask for access on the model's page there, then {login}"
    except RevisionNotFoundError:
        reason = f"the Hub's repository has no revision {spec.revision}"
    except RepositoryNotFoundError:
        reason = (
            f"neither local nor a model on the Hub that you may read; check the spelling; if it is private, {login}"
        )
    except LocalEntryNotFoundError:
        reason = "neither local nor in the cache, and the Hub cannot be reached"
    except (HFValidationError, OSError) as error:
        reason = f"no local folder, and the Hub says: {first_line(error)}"
    raise UserError(f"{where}: {reason}")


def _settings(file: Path, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{where}: its {file.name} is no JSON of settings") from None


def _from_torchvision(weights: list[Path], settings: dict[str, Any], where: str) -> Classifier:
    """A ResNet under torchvision's names; timm's config.json, where there is one, tells normalization and size."""
    try:
        tensors = {name: tensor for file in weights for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise UserError(f"{where}: not a safetensors file: {error}") from None
    if not is_torchvision_resnet(tensors):
        told = "its config.json names no" if settings else "there is no config.json with a"
        raise UserError(
            f"{where}: {told} model_type of transformers, and the weights do not have torchvision's ResNet names "
            f"(found: {', '.join(sorted(tensors)[:3])}, ...)"
        )
    model = convert(tensors, where)
    timm = settings.get("pretrained_cfg", settings)
    names = settings.get("label_names") or [f"LABEL_{index}" for index in range(model.config.num_labels)]
    frame = IMAGENET_FRAME
    if "input_size" in timm:
        height, width = timm["input_size"][1:]
        filters = Image.Resampling.__members__
        resample = filters.get(str(timm.get("interpolation")).upper(), Image.Resampling.BILINEAR)
        frame = Frame((height, width), int(min(height, width) / timm.get("crop_pct", 1)), int(resample))
    return Classifier(
        model=model,
        mean=tuple(timm.get("mean", IMAGENET_MEAN)),
        std=tuple(timm.get("std", IMAGENET_STD)),
        class_names=tuple(names),
        size=frame.size,
        resize=frame.resize,
        resample=frame.resample,
    )


def _from_transformers(folder: Path, model_type: str, where: str) -> Classifier:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with hide_loading_bars():
            model, found = AutoModelForImageClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are told below
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{where}: {_why_not(model_type, error)}") from None
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(f"{where}: its weights lack {missing}; it is no trained classifier")
    for name, held, wanted in sorted(found["mismatched_keys"])[:1]:
        told = f"its weights hold {name} with the shape {list(held)}, its config.json asks for {list(wanted)}"
        raise UserError(f"{where}: {told}")
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        there = (folder / "preprocessor_config.json").is_file()
        reason = f" that transformers can read: {first_line(error)[:200]}" if there else ""
        raise UserError(f"{where}: its normalization is not known: no preprocessor_config.json{reason}") from None
    frame = read_frame(processor)
    try:
        mean, std, order = measure_colors(processor)
    except ValueError as error:
        raise UserError(f"{where}: its preprocessor_config.json: {first_line(error)}") from None
    if not all(0 < deviation < math.inf for deviation in std):
        raise UserError(f"{where}: its preprocessor_config.json normalizes to infinity or not at all: std {list(std)}")
    if order != (0, 1, 2):
        reorder_input(model, order)
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    return Classifier(model, mean, std, names, frame.size, frame.resize, frame.resample)


def _why_not(model_type: str, error: Exception) -> str:
    if model_type not in CONFIG_MAPPING_NAMES and model_type not in ("srel_resnet", "srel_convnet", "srel_bn_vit"):
        nearest = difflib.get_close_matches(model_type, CONFIG_MAPPING_NAMES, n=3)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        return f"unknown architecture {model_type!r}{hint}"
    if "Unrecognized configuration class" in str(error):
        return f"{model_type} is no image classifier in transformers"
    return f"no classifier that transformers can load: {' '.join(str(error).split())[:300]}"


def read_frame(processor: Any) -> Frame:
    """Size and resize rule of a transformers image processor; a picture is never stretched here."""
    size, crop, resample = processor.size or {}, processor.crop_size or {}, int(processor.resample or BILINEAR)
    short = size.get("shortest_edge") or min(size.get("height") or 224, size.get("width") or 224)
    share = getattr(processor, "crop_pct", None)
    if share and short < 384:  # ConvNextImageProcessor, which enlarges to short / share and cuts out short
        return Frame((short, short), int(short / share), resample)
    if processor.do_center_crop and crop:
        return Frame((crop["height"], crop["width"]), short, resample)
    return Frame((size.get("height") or short, size.get("width") or short), None, resample)


def measure_colors(processor: Any) -> tuple[Color, Color, tuple[int, ...]]:
    """What a processor does to colors: mean and std per RGB channel, and the RGB channel in each of its own."""
    pictures = [Image.new("RGB", (32, 32), color) for color in COLORS]
    values = torch.as_tensor(processor(pictures, return_tensors="pt")["pixel_values"]).double()
    black, white, red = values[:, :, values.shape[2] // 2, values.shape[3] // 2]
    order = (0, 1, 2) if int((red - black).abs().argmax()) == 0 else (2, 1, 0)
    std = 1 / (white - black)
    mean = -black * std
    return rounded(mean, order), rounded(std, order), order


def rounded(values: Tensor, order: tuple[int, ...]) -> Color:
    """By RGB channel, to six places, which undoes the processor's float32."""
    red, green, blue = (round(float(values[order.index(channel)]), 6) + 0.0 for channel in range(3))
    return red, green, blue


@torch.no_grad()
def reorder_input(model: nn.Module, order: tuple[int, ...]) -> None:
    """Let a network that was trained on other than RGB channels take RGB: its first convolution is permuted."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    first.weight.copy_(first.weight[:, [order.index(channel) for channel in range(3)]].clone())


def with_size(classifier: Classifier, side: int) -> Classifier:
    """The same resize rule at another size."""
    resize = classifier.resize and round(classifier.resize * side / min(classifier.size))
    return replace(classifier, size=(side, side), resize=resize)


@torch.no_grad()
def require_usable_classifier(classifier: Classifier, where: str) -> None:
    """One forward pass on an image of zeros.

    Raises:
        UserError: where the network cannot take images of this size, answers with another number of classes or not
            with numbers.
    """
    try:
        logits = classifier.model(torch.zeros(1, 3, *classifier.size)).logits
    except (RuntimeError, ValueError) as error:
        height, width = classifier.size
        reason = first_line(error)
        raise UserError(f"{where}: it cannot take images of {width} x {height} pixels: {reason}") from None
    if not logits.isfinite().all():
        raise UserError(
            f"{where}: it answers an image of zeros with {logits.flatten()[~logits.isfinite().flatten()][0]}"
        )
    if logits.shape != (1, len(classifier.class_names)):
        raise UserError(f"{where}: it gives {logits.shape[1]} logits for {len(classifier.class_names)} classes")


def require_batchnorm(model: nn.Module, where: str) -> None:
    """Refuse a network that images cannot be recovered from.

    Raises:
        UserError: naming the architecture and its normalization layers.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(layer.running_mean is not None for layer in layers):
        return
    others = Counter(type(m).__name__ for m in model.modules() if "norm" in type(m).__name__.lower())
    held = ", ".join(f"{count} {name}" for name, count in others.items()) or "none"
    name = type(model).__name__
    raise UserError(f"{where}: {name} has no BatchNorm2d layer (normalization: {held}); {WITHOUT_BATCHNORM}")
