"""Settings of classifiers from elsewhere: the class names in a transformers config, and the config.json of timm.

People write these files by hand, so any field may be missing, null, or of another type. Every field is used, or the
message names it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from srel_hub.errors import UserError
from srel_hub.storage.decode import Frame


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_FRAME = Frame((224, 224), 256)  # with which torchvision reports the accuracy of its weights
Color = tuple[float, float, float]  # one value per channel


def read_settings(file: Path, where: str) -> dict[str, Any]:
    """Return the content of a config.json.

    Raises:
        UserError: If it is not a JSON object.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8-sig"))  # editors on Windows add a byte order mark
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"{where}: its {file.name} is not a JSON object")
    return settings


def labeled_settings(settings: Mapping[str, Any], named: Sequence[str] | None, where: str) -> dict[str, Any]:
    """Return a transformers config in which `id2label` has a text for each index from 0, and `label2id` agrees.

    Args:
        settings: The config.
        named: The class names of the recipe, which replace those of a config that cannot be used; None without them.
        where: The recipe's field and value, which begin the message.

    Raises:
        UserError: If `id2label` cannot be used and the recipe has no class names.
    """
    names: Sequence[str] | None
    try:
        names = _label_names(settings, where)
    except UserError:
        if named is None:
            raise
        names = named
    clean = {name: value for name, value in settings.items() if name not in ("id2label", "label2id", "num_labels")}
    if names is None:  # transformers numbers the classes
        return clean | {name: settings[name] for name in ("num_labels",) if settings.get(name) is not None}
    return clean | {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _label_names(settings: Mapping[str, Any], where: str) -> list[str] | None:
    """Return the names in `id2label`; None if it has none."""
    fix = f"correct it, or set {where.split('=')[0]}.class_names"
    labels, count = settings.get("id2label"), settings.get("num_labels")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UserError(f"{where}: its config.json has num_labels={count!r}, which is not a number of classes")
    if not labels and not isinstance(labels, int | float | str):
        return None
    if not isinstance(labels, Mapping | list):
        raise UserError(
            f"{where}: its config.json has id2label={str(labels)[:50]!r}, which does not name classes; {fix}"
        )
    by_key = dict(enumerate(labels)) if isinstance(labels, list) else labels
    try:
        by_index = {int(key): value for key, value in by_key.items()}
    except (ValueError, TypeError):
        odd = next(key for key in by_key if not str(key).strip().lstrip("-").isdigit())
        raise UserError(f"{where}: its id2label has the index {odd!r}, which is not a number; {fix}") from None
    if sorted(by_index) != list(range(len(by_key))):
        missing = next((index for index in range(len(by_key)) if index not in by_index), 0)
        start = f"begins at {min(by_index)}" if missing == 0 else f"has no class {missing}"
        raise UserError(f"{where}: its id2label {start}, but must name the classes 0 to {len(by_key) - 1}; {fix}")
    values = [by_index[index] for index in range(len(by_index))]
    if all(value is None for value in values):
        return [f"LABEL_{index}" for index in range(len(values))]
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise UserError(
                f"{where}: its id2label names class {index} {json.dumps(value)[:50]}, which is not text; {fix}"
            )
    if count is not None and count != len(values):
        raise UserError(
            f"{where}: its config.json has num_labels={count}, but id2label names {len(values)} classes; {fix}"
        )
    return [str(value) for value in values]


def timm_names(settings: Mapping[str, Any], count: int, where: str) -> tuple[str, ...]:
    """Return the class names in timm's config.json, or numbers if it has none.

    Args:
        settings: The config.json.
        count: The number of classes of the network.
        where: The recipe's field and value, which begin the message.

    Raises:
        UserError: If the config names another number of classes, or names that are not text.
    """
    names = settings.get("label_names")
    if names is None or names == []:
        return tuple(f"LABEL_{index}" for index in range(count))
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{where}: label_names in its config.json must be a list of texts, got {str(names)[:50]!r}")
    if len(names) != count:
        raise UserError(f"{where}: its config.json names {len(names)} classes, but its weights have {count}")
    return tuple(names)


def timm_preprocessing(settings: Mapping[str, Any], usual: Frame | None, where: str) -> tuple[Frame, Color, Color]:
    """Return how images are resized, and mean and std, from timm's config.json or ImageNet's.

    Args:
        settings: The config.json; empty if there is none.
        usual: How the family's images are resized, if the config does not say it.
        where: The recipe's field and value, which begin the message.

    Raises:
        UserError: If a field has a value that cannot be used. The message names it.
    """
    timm = settings.get("pretrained_cfg", settings) or {}
    if not isinstance(timm, Mapping):
        raise UserError(f"{where}: pretrained_cfg in its config.json must be a mapping, got {str(timm)[:50]!r}")

    def numbers(name: str, default: tuple[float, ...], low: float) -> tuple[float, ...]:
        value = timm.get(name)
        if value is None:
            return default
        is_list = isinstance(value, list) and len(value) == len(default)
        if not is_list or not all(_is_number(item) and low < item < math.inf for item in value):
            raise UserError(
                f"{where}: {name} in its config.json is {str(value)[:50]}; it must have three numbers"
                f"{' greater than 0' if low == 0 else ''}"
            )
        return tuple(value)

    mean = numbers("mean", IMAGENET_MEAN, -math.inf)
    std = numbers("std", IMAGENET_STD, 0)
    frame = usual or IMAGENET_FRAME
    if timm.get("input_size") is not None:
        size = numbers("input_size", (3, 224, 224), 0)
        if size[0] != 3 or any(side != int(side) for side in size):
            raise UserError(f"{where}: input_size in its config.json is {list(size)}; it must be [3, height, width]")
        share = 1 if timm.get("crop_pct") is None else timm["crop_pct"]
        if not _is_number(share) or not 0 < share <= 2:
            raise UserError(f"{where}: crop_pct in its config.json is {str(share)[:50]}; it must be in (0, 1]")
        height, width = int(size[1]), int(size[2])
        filters = Image.Resampling.__members__
        resample = filters.get(str(timm.get("interpolation")).upper(), Image.Resampling.BILINEAR)
        frame = Frame((height, width), int(min(height, width) / share), int(resample))
    return frame, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
