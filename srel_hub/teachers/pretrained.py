"""Pretrained teachers: load them from the Hub or from disk, and convert them to our conventions.

The normalization of a teacher's image processor is measured on three plain images. The processor's settings are not
read, because each family names them differently (MobileViT swaps red and blue, EfficientNet divides by the deviation
twice).
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
from srel_hub.models.own import OwnNetworkError
from srel_hub.teachers.classifier import Classifier, check_forward, hide_loading_bars, network_name
from srel_hub.teachers.torchvision_weights import convert, is_torchvision_resnet


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_FRAME = Frame((224, 224), 256)  # with which torchvision reports the accuracy of its weights
FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
Color = tuple[float, float, float]  # one value per channel
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
OWN_MODEL_TYPES = ("srel_resnet", "srel_convnet", "srel_bn_vit")
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Origin:
    """Where a teacher was loaded from.

    Attributes:
        path: the id on the Hub, or the last part of a local path.
        revision: the commit on the Hub; None for a local path.
        sha256: of every file of weights.
    """

    path: str
    revision: str | None
    sha256: dict[str, str]


def load_pretrained(spec: Pretrained, field: str) -> tuple[Classifier, Origin]:
    """Load a pretrained classifier for RGB images, on the CPU, in eval mode and float32, with frozen weights.

    Args:
        spec: the recipe's section.
        field: the field's name in the recipe, such as `squeeze.pretrained`, for messages.

    Raises:
        UserError: if the classifier does not exist or cannot be used.
    """
    where = f"{field}={spec.path}"
    path = fetch(spec, where)
    weights = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{where}: it has no .safetensors weights (pickled weights are never loaded)")
    settings = _settings(path / "config.json", where) if (path / "config.json").is_file() else {}
    if "model_type" in settings:
        classifier = _from_transformers(path, settings["model_type"], where)
    else:
        classifier = _from_torchvision(weights, settings, where)
    classifier.model.eval().requires_grad_(False)
    for name, tensor in classifier.model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: its weights {name} contain NaN or infinity; choose a trained classifier")
    if spec.class_names is not None:
        if len(spec.class_names) != len(classifier.class_names):
            listed, actual = len(spec.class_names), len(classifier.class_names)
            raise UserError(f"{where}: it has {actual} classes, but {field}.class_names lists {listed}")
        classifier = replace(classifier, class_names=spec.class_names)
    revision = None if is_local(spec.path) else path.name  # a snapshot's folder is named by its commit
    origin = Origin(public_name(spec.path), revision, {file.name: sha256(file) for file in weights})
    return classifier, origin


def fetch(spec: Pretrained, where: str, files: Sequence[str] = FILES) -> Path:
    """Return the local folder or file of a teacher, after downloading it from the Hub if needed.

    Args:
        spec: the recipe's section.
        where: the recipe's field and value, which begin the message.
        files: patterns of the files to download.

    Raises:
        UserError: if the teacher does not exist or cannot be accessed.
    """
    path = Path(spec.path).expanduser()
    if path.exists():
        if spec.revision is not None:
            raise UserError(f"{where}: a local path has no revision {spec.revision}; remove the revision")
        if path.is_file() and path.suffix != ".safetensors":
            raise UserError(f"{where}: only .safetensors files are read, because a pickled file can run code")
        return path
    if is_local(spec.path):
        raise UserError(f"{where}: there is no such folder or file")
    try:
        with hide_loading_bars():
            return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(files)))
    except GatedRepoError:
        reason = f"this model is gated on the Hub; request access on the model's page, then {LOG_IN}"
    except RevisionNotFoundError:
        reason = f"the repository on the Hub has no revision {spec.revision}"
    except RepositoryNotFoundError:
        reason = (
            "this is not a local folder or file, and not a model on the Hub that you can access; check the spelling; "
            "if "
        )
        reason += f"it is private, {LOG_IN}"
    except LocalEntryNotFoundError:
        reason = "this is not a local folder or file, it is not in the cache, and the Hub cannot be reached"
    except (HFValidationError, OSError) as error:
        reason = f"this is not a local folder or file, and the Hub reports: {first_line(error)}"
    raise UserError(f"{where}: {reason}")


def _settings(file: Path, where: str) -> dict[str, Any]:
    """Return the content of a config.json."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{where}: its {file.name} is not a JSON object") from None


def _from_torchvision(weights: list[Path], settings: dict[str, Any], where: str) -> Classifier:
    """Load a ResNet with torchvision's names. Normalization and size are from timm's config.json or ImageNet's."""
    try:
        tensors = {name: tensor for file in weights for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise UserError(f"{where}: this is not a safetensors file: {error}") from None
    if not is_torchvision_resnet(tensors):
        raise UserError(
            f"{where}: neither a transformers model (config.json with a known model_type) nor a torchvision ResNet "
            "(weights named like layer1.0.conv1.weight); "
            f"its weights are {', '.join(sorted(tensors)[:3])}, ..."
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
    """Load a classifier that transformers saved, with the normalization of its image processor."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with hide_loading_bars():
            model, info = AutoModelForImageClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are reported below, with names and shapes
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{where}: {_explain(model_type, error)}") from None
    if info["missing_keys"]:  # transformers would fill them with random numbers
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{where}: its weights lack {missing}; choose a trained classifier")
    for name, actual, expected in sorted(info["mismatched_keys"])[:1]:
        raise UserError(
            f"{where}: its weights have {name} with the shape {list(actual)}, but its config.json requires "
            f"{list(expected)}"
        )
    processor = _load_processor(folder, where)
    frame = read_frame(processor)
    try:
        mean, std, order = measure_colors(processor)
    except ValueError as error:
        raise UserError(f"{where}: its preprocessor_config.json cannot be used: {first_line(error)}") from None
    if not all(0 < deviation < math.inf for deviation in std):
        raise UserError(
            f"{where}: its preprocessor_config.json has the standard deviation {list(std)}; each must be positive and "
            "finite"
        )
    if order != (0, 1, 2):
        reorder_input(model, order)
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    return Classifier(model, mean, std, names, frame.size, frame.resize, frame.resample)


def _load_processor(folder: Path, where: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        exists = (folder / "preprocessor_config.json").is_file()
        reason = f" that transformers can read: {first_line(error)[:200]}" if exists else ""
        raise UserError(f"{where}: its normalization is unknown: no preprocessor_config.json{reason}") from None


def _explain(model_type: str, error: Exception) -> str:
    """Explain why transformers cannot load a classifier."""
    if model_type not in CONFIG_MAPPING_NAMES and model_type not in OWN_MODEL_TYPES:
        nearest = difflib.get_close_matches(model_type, CONFIG_MAPPING_NAMES, n=3)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        return f"unknown architecture {model_type!r}{hint}"
    if "Unrecognized configuration class" in str(error):
        return f"transformers has no image classifier of type {model_type}"
    return f"transformers cannot load it as an image classifier: {' '.join(str(error).split())[:300]}"


def read_frame(processor: Any) -> Frame:
    """Return size and resize rule of a transformers image processor.

    Some processors stretch an image to a square. Here the aspect ratio is always kept, and the center is cut out.
    """
    size, crop, resample = processor.size or {}, processor.crop_size or {}, int(processor.resample or BILINEAR)
    short = size.get("shortest_edge") or min(size.get("height") or 224, size.get("width") or 224)
    share = getattr(processor, "crop_pct", None)
    if share and short < 384:  # ConvNextImageProcessor resizes to short / share and cuts out short, but only below 384
        return Frame((short, short), int(short / share), resample)
    if processor.do_center_crop and crop:
        return Frame((crop["height"], crop["width"]), short, resample)
    return Frame((size.get("height") or short, size.get("width") or short), None, resample)


def measure_colors(processor: Any) -> tuple[Color, Color, tuple[int, ...]]:
    """Measure the normalization of an image processor on a black, a white and a red image.

    Returns:
        mean and std of each RGB channel in [0, 1], and the RGB channel in each channel of the processor's output.
    """
    pictures = [Image.new("RGB", (32, 32), color) for color in (BLACK, WHITE, RED)]
    values = torch.as_tensor(processor(pictures, return_tensors="pt")["pixel_values"]).double()
    black, white, red = values[:, :, values.shape[2] // 2, values.shape[3] // 2]
    # Red differs from black in one channel: in the first, unless the processor swaps red and blue.
    order = (0, 1, 2) if int((red - black).abs().argmax()) == 0 else (2, 1, 0)
    std = 1 / (white - black)
    mean = -black * std
    return _rounded(mean, order), _rounded(std, order), order


def _rounded(values: Tensor, order: tuple[int, ...]) -> Color:
    """Sort values by RGB channel and round them to six decimals, since the processor computes in float32."""
    # Adding 0.0 turns -0.0 into 0.0.
    red, green, blue = (round(float(values[order.index(channel)]), 6) + 0.0 for channel in range(3))
    return red, green, blue


@torch.no_grad()
def reorder_input(model: nn.Module, order: tuple[int, ...]) -> None:
    """Convert a network to RGB input by permuting the input channels of its first convolution.

    Args:
        model: changed in place.
        order: the RGB channel in each of the network's channels; (2, 1, 0) for BGR.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    first.weight.copy_(first.weight[:, [order.index(channel) for channel in range(3)]].clone())


def with_size(classifier: Classifier, side: int) -> Classifier:
    """Return the classifier for square images of `side` pixels; `resize` is scaled with the size."""
    resize = classifier.resize and round(classifier.resize * side / min(classifier.size))
    return replace(classifier, size=(side, side), resize=resize)


def require_usable_classifier(classifier: Classifier, where: str) -> None:
    """Check that a classifier can process images of its size, by running it on an image of zeros.

    Raises:
        UserError: if the classifier fails, returns a wrong number of logits, or returns logits that are not finite. The
            message begins with `where`.
    """
    image = torch.zeros(1, 3, *classifier.size)
    logits = check_forward(classifier.model, image, len(classifier.class_names), where)
    if not logits.isfinite().all():
        value = float(logits[~logits.isfinite()][0])
        raise UserError(f"{where}: its logits for an image of zeros contain {value}; choose another teacher")


def require_batchnorm(model: nn.Module, where: str) -> None:
    """Check that a network has BatchNorm2d layers with running statistics, from which SRe2L recovers images.

    Raises:
        UserError: if the network has no such layer. The message lists its normalization layers.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(layer.running_mean is not None for layer in layers):
        return
    others = Counter(type(m).__name__ for m in model.modules() if "norm" in type(m).__name__.lower())
    listed = ", ".join(f"{count} {name}" for name, count in others.items()) or "none"
    raise UserError(
        f"{where}: {network_name(model)} has no BatchNorm2d layer (normalization: {listed}). SRe2L recovers images "
        "from BatchNorm statistics; choose a teacher with BatchNorm2d layers"
    )
