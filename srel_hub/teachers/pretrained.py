"""Pretrained teachers: load them from the Hub or from disk, and convert them to our conventions.

A teacher is a folder that transformers saved, or a file of weights with the names of torchvision, of timm, or of the
network that the recipe names.
"""

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from srel_hub.config import Network, Pretrained, is_local, public_name
from srel_hub.errors import UserError, first_line, reading
from srel_hub.models.own import PREFIX, NotAllowedError, OwnNetworkError
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import sha256
from srel_hub.teachers import layouts
from srel_hub.teachers.architectures import build
from srel_hub.teachers.classifier import (
    Classifier,
    check_forward,
    hide_loading_bars,
    network_name,
    require_repeatable,
)
from srel_hub.teachers.fetch import fetch
from srel_hub.teachers.foreign_settings import labeled_settings, read_settings, timm_names, timm_preprocessing
from srel_hub.teachers.processors import load_processor, measure_colors, read_frame, reorder_input
from srel_hub.teachers.weight_files import (
    MAIN,
    choose_files,
    read_tensors,
    require_floating_point,
    without_prefixes,
)
from srel_hub.teachers.weight_layouts import Target, load_weights


OWN_MODEL_TYPES = (
    *("srel_resnet", "srel_convnet", "srel_bn_vit", "srel_mobilenet", "srel_densenet", "srel_shufflenet", "srel_own"),
)
TIMM_WRAPPER = "timm_wrapper"  # transformers' model_type of timm's networks, whose weights have timm's names
KEY_SIZE = 32  # pixels of the images for which a network is built to compare names; most have the same at any size


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


def load_pretrained(spec: Pretrained, field: str, network: Network | None = None) -> tuple[Classifier, Origin]:
    """Load a pretrained classifier for RGB images, on the CPU, in eval mode and float32, with frozen weights.

    Args:
        spec: the recipe's section.
        field: the field's name in the recipe, such as `squeeze.pretrained`, for messages.
        network: the network whose weights a file may have; None if the recipe names none.

    Raises:
        UserError: if the classifier does not exist or cannot be used.
    """
    where = f"{field}={spec.path}"
    path = fetch(spec, where)
    folder = path if path.is_dir() else path.parent
    settings = read_settings(folder / "config.json", where) if (folder / "config.json").is_file() else {}
    model_type = settings.get("model_type")
    if not isinstance(model_type, str | None):
        raise UserError(f"{where}: its config.json has model_type={str(model_type)[:50]}, which is not text")
    files = choose_files(path, where)
    if model_type not in (None, TIMM_WRAPPER) and (path.is_dir() or path.name == MAIN):
        classifier = _from_transformers(folder, files, settings, spec, where)
    else:
        is_timm = path.is_dir() or model_type == TIMM_WRAPPER or "pretrained_cfg" in settings
        tensors = read_tensors(files, where)
        classifier = _from_file(tensors, settings if is_timm else {}, spec, network, where)
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
    origin = Origin(public_name(spec.path), revision, {file.name: sha256(file) for file in files})
    return classifier, origin


def _from_file(
    tensors: Mapping[str, Tensor], settings: dict[str, Any], spec: Pretrained, network: Network | None, where: str
) -> Classifier:
    """Load a file of weights: of the recipe's network, or with the names of torchvision or timm."""
    field = where.split("=")[0]
    target = None if network is None else _network_target(tensors, spec, network)
    if target is not None:
        missing = [name for name in ("mean", "std", "size") if getattr(spec, name) is None]
        if missing:
            raise UserError(
                f"{where}: a file with the weights of {target.family} does not state how it was trained; set "
                f"{', '.join(f'{field}.{name}' for name in missing)}"
            )
        assert spec.mean is not None and spec.std is not None and spec.size is not None
        weights = _best_names(tensors, target)
        model = load_weights(target, weights, where)
        names = tuple(f"LABEL_{index}" for index in range(model.config.num_labels))
        return Classifier(model, spec.mean, spec.std, spec.class_names or names, (spec.size, spec.size))
    architecture = settings.get("architecture")
    candidates = list(without_prefixes(tensors))
    known = next((c for c in candidates if layouts.is_known(c)), candidates[0])
    try:
        with reading(where, "its config.json may name another architecture than that of the weights"):
            model, usual = layouts.convert(known, where, architecture if isinstance(architecture, str) else None)
    except UserError as error:
        hint = ""
        if network is not None and not layouts.is_known(known):
            hint = f". They are not the weights of squeeze.network ({network.title}) either"
        raise UserError(f"{error}{hint}") from None
    frame, mean, std = timm_preprocessing(settings, usual, where)
    frame = frame if spec.size is None else Frame((spec.size, spec.size), None, frame.resample)
    names = timm_names(settings, model.config.num_labels, where)
    return Classifier(model, spec.mean or mean, spec.std or std, names, frame.size, frame.resize, frame.resample)


def _network_target(tensors: Mapping[str, Tensor], spec: Pretrained, network: Network) -> Target | None:
    """Return the recipe's network as a target, if the file may have its weights; None if the names differ.

    An own network is always the target: what its weights lack is an error. A named one is the target only if it has
    all names of the file, because most files have the names of torchvision or timm.
    """
    heads = [tensor for tensor in tensors.values() if tensor.ndim in (2, 4) and tensor.shape[2:] in ((), (1, 1))]
    count = len(spec.class_names) if spec.class_names else len(heads[-1]) if heads else 1
    side = spec.size or KEY_SIZE
    model = build(network, [f"LABEL_{index}" for index in range(count)], (side, side), seed=0)
    prefix = PREFIX if network.factory else ""
    names = {own: own.removeprefix(prefix) for own in model.state_dict()}
    target = Target(f"squeeze.network ({network.title})", model, names)
    if network.factory is None and not set(_best_names(tensors, target)) <= set(names.values()):
        return None
    return target


def _best_names(tensors: Mapping[str, Tensor], target: Target) -> dict[str, Tensor]:
    """Return the weights without the prefixes of wrappers that the target does not have."""
    expected = set(target.names.values())
    return max(without_prefixes(tensors), key=lambda candidate: len(expected & candidate.keys()))


def _from_transformers(
    folder: Path, files: list[Path], settings: dict[str, Any], spec: Pretrained, where: str
) -> Classifier:
    """Load a classifier that transformers saved, with the normalization of its image processor."""
    field = where.split("=")[0]
    set_fields = [f"{field}.{name}" for name in ("mean", "std", "size") if getattr(spec, name) is not None]
    if set_fields:
        raise UserError(f"{where}: its preprocessor_config.json states its images; remove {', '.join(set_fields)}")
    model_type = settings["model_type"]
    clean = labeled_settings(settings, spec.class_names, where)
    require_floating_point(files, where)
    try:
        config = CONFIG_MAPPING[model_type].from_dict(clean)
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
    except NotAllowedError as error:
        raise UserError(f"{where}: {error}") from None
    except OwnNetworkError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # files from elsewhere make transformers raise almost any exception
        raise UserError(f"{where}: {_explain(model_type, error)}") from None
    if info["missing_keys"]:  # transformers would fill them with random numbers
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{where}: its weights lack {missing}; choose a trained classifier")
    for name, actual, expected in sorted(info["mismatched_keys"])[:1]:
        raise UserError(
            f"{where}: its weights have {name} with the shape {list(actual)}, but its config.json requires "
            f"{list(expected)}"
        )
    processor = load_processor(folder, where)
    try:
        frame = read_frame(processor)
        mean, std, order = measure_colors(processor)
    except Exception as error:  # any setting may be null or of another type
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


def _explain(model_type: Any, error: Exception) -> str:
    """Explain why transformers cannot load a classifier."""
    if model_type not in CONFIG_MAPPING_NAMES and model_type not in OWN_MODEL_TYPES:
        nearest = difflib.get_close_matches(str(model_type), CONFIG_MAPPING_NAMES, n=3)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        return f"unknown architecture {model_type!r}{hint}"
    if "Unrecognized configuration class" in str(error):
        return f"transformers has no image classifier of type {model_type}"
    return f"transformers cannot load it as an image classifier: {' '.join(str(error).split())[:300]}"


def with_size(classifier: Classifier, side: int) -> Classifier:
    """Return the classifier for square images of `side` pixels; `resize` is scaled with the size."""
    resize = classifier.resize and round(classifier.resize * side / min(classifier.size))
    return replace(classifier, size=(side, side), resize=resize)


def require_usable_classifier(classifier: Classifier, where: str) -> None:
    """Check that a classifier can process images of its size, by running it on an image of zeros and on random ones.

    Raises:
        UserError: if the classifier fails, returns a wrong number of logits, or returns logits that are not finite or
            not the same for the same image. The message begins with `where`.
    """
    image = torch.zeros(1, 3, *classifier.size)
    logits = check_forward(classifier.model, image, len(classifier.class_names), where)
    if not logits.isfinite().all():
        value = float(logits[~logits.isfinite()][0])
        raise UserError(f"{where}: its logits for an image of zeros contain {value}; choose another teacher")
    require_repeatable(classifier.model, len(classifier.class_names), classifier.size, where)


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
