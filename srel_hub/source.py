"""The real dataset: scikit-learn's digits or anything `load_dataset` opens, as uint8 RGB images of one size."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from srel_hub import recipe
from srel_hub.recipe import UserError


DIGITS_SPLIT_SEED = 0
SMALLEST_SIDE = 2
DIGITS = {
    "title": "Optical Recognition of Handwritten Digits (8 x 8)",
    "homepage": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "license": "cc-by-4.0",
    "terms": "CC BY 4.0 at the UCI Machine Learning Repository; credit the authors.",
    "citation": (
        "@misc{alpaydin1998digits,\n  author = {Alpaydin, E. and Kaynak, C.},\n"
        "  title = {Optical Recognition of Handwritten Digits},\n  year = {1998},\n"
        "  publisher = {UCI Machine Learning Repository},\n  doi = {10.24432/C50P49}\n}"
    ),
}


class Progress(Protocol):
    """Passes items on and shows how far they are (`Run.progress`)."""

    def __call__(self, items: Iterable[Any], total: int, title: str, unit: str) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Images:
    """Decoded images: `pixels` uint8 [N, 3, H, W], `labels` int64 [N]."""

    pixels: Tensor
    labels: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[2], self.pixels.shape[3]


@dataclass(frozen=True)
class Source:
    """A dataset that has been found and checked; its splits are decoded only when called for.

    `eval` is None where the recipe sets no eval split.
    """

    class_names: tuple[str, ...]
    train: Callable[[], Images]
    eval: Callable[[], Images] | None


def described(spec: recipe.Source) -> recipe.Source:
    """The section with what is known of a built-in dataset filled in."""
    return spec if spec.builtin is None else replace(spec, **DIGITS)  # type: ignore[arg-type]


def open_source(spec: recipe.Source, progress: Progress) -> Source:
    """Find the splits and columns, and check them. `progress` is shown when a split is decoded.

    Raises:
        UserError: with every fault found, before any image is decoded.
    """
    if spec.builtin is not None:
        return _digits()
    assert spec.path is not None
    builder = _builder(spec.path)
    names = [spec.train_split] + ([spec.eval_split] if spec.eval_split else [])
    found = _splits(builder, spec.path)
    missing = [_missing_split(spec, name, found) for name in names if name not in found]
    if missing:
        raise UserError("\n".join(missing))
    tables = {name: _load(spec.path, name) for name in names}
    columns = {name: _columns(spec, table.features, name) for name, table in tables.items()}
    image, label, class_names = columns[spec.train_split]
    if any(column != columns[spec.train_split] for column in columns.values()):
        raise UserError(f"{spec.path}: {' and '.join(names)} differ in columns or class names")

    def decoded(name: str) -> Callable[[], Images]:
        return lambda: _decode(tables[name], image, label, spec.image_size, f"{spec.path}, split {name}", progress)

    return Source(class_names, decoded(spec.train_split), decoded(spec.eval_split) if spec.eval_split else None)


def _missing_split(spec: recipe.Source, name: str, found: list[str]) -> str:
    field = "eval_split" if name == spec.eval_split else "train_split"
    way_out = "; source.eval_split=null does without evaluation" if field == "eval_split" else ""
    return f"source.{field}={name}: {spec.path} has no such split (there are: {', '.join(found)}){way_out}"


def _builder(path: str) -> Any:
    if path.startswith((".", "/", "~")) and not Path(path).exists():
        raise UserError(f"source.path={path}: there is no such folder")
    if Path(path).is_file():
        raise UserError(f"source.path={path} is a file; give the folder that it lies in")
    try:
        return datasets.load_dataset_builder(path)
    except (OSError, ValueError, RuntimeError) as error:
        kind = "folder" if Path(path).exists() else "local folder or Hub dataset"
        raise UserError(f"source.path={path}: no {kind} that load_dataset opens: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _splits(builder: Any, path: str) -> list[str]:
    if builder.info.splits:
        return [str(name) for name in builder.info.splits]
    return [str(name) for name in builder.config.data_files or datasets.get_dataset_split_names(path)]


def _load(path: str, split: str) -> Any:
    try:
        return datasets.load_dataset(path, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"source.path={path}, split {split}: {_first_line(error)}") from None


def _columns(spec: recipe.Source, features: Any, split: str) -> tuple[str, str, tuple[str, ...]]:
    """Names of the image and the label column, and the class names."""
    image = _column(features, spec.image_column, datasets.Image, "image_column", f"{spec.path}, split {split}")
    label = _column(features, spec.label_column, datasets.ClassLabel, "label_column", f"{spec.path}, split {split}")
    names = tuple(features[label].names)
    if len(names) < 2:
        raise UserError(f"{spec.path}: {len(names)} class; at least two are needed")
    return image, label, names


def _column(features: Any, wanted: str | None, kind: type, field: str, where: str) -> str:
    candidates: list[str] = [name for name, feature in features.items() if isinstance(feature, kind)]
    there = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    if wanted is None and len(candidates) == 1:
        return candidates[0]
    if not candidates and kind is datasets.ClassLabel:
        raise UserError(
            f"{where}: no ClassLabel column (columns: {there}); lay the images out in one folder for each of two or "
            "more classes, or cast your column: dataset.cast_column(name, datasets.ClassLabel(names=[...]))"
        )
    if wanted is None:
        raise UserError(f"{where}: {len(candidates)} {kind.__name__} columns; set source.{field} (columns: {there})")
    if wanted not in candidates:
        raise UserError(f"source.{field}={wanted}: {where} has no such {kind.__name__} column (columns: {there})")
    return wanted


def _decode(table: Any, image: str, label: str, side: int | None, where: str, progress: Progress) -> Images:
    size = None if side is None else (side, side)
    encoded = table.cast_column(image, datasets.Image(decode=False))[image]
    pixels = _stack(progress(encoded, len(table), f"decode {where}", "image"), size, where)
    return Images(pixels, _labels(table[label][:], table.features[label].num_classes, where))


def _labels(values: list[int | None], num_classes: int, where: str) -> Tensor:
    for row, value in enumerate(values):
        if value is None or not 0 <= value < num_classes:
            raise UserError(f"{where}: row {row} has the label {value}; allowed are 0 to {num_classes - 1}: remove it")
    return torch.tensor(values, dtype=torch.int64)


def require_every_class(images: Images, class_names: Sequence[str]) -> None:
    """Refuse a training split that lacks a class.

    Raises:
        UserError: naming the empty classes.
    """
    counts = images.labels.bincount(minlength=len(class_names)).tolist()
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(f"the training split has no image of: {', '.join(empty[:10])}; add some or remove the class")


def _stack(encoded: Iterable[Any], size: tuple[int, int] | None, where: str) -> Tensor:
    arrays: list[np.ndarray[Any, Any]] = []
    for row, value in enumerate(encoded):
        rgb = _open(value, f"{where}: row {row}")
        rgb = rgb if size is None else fit(rgb, size)
        array = np.asarray(rgb)
        if arrays and array.shape != arrays[0].shape:
            raise UserError(
                f"{where}: row {row} is {array.shape[1]} x {array.shape[0]} pixels, row 0 is {arrays[0].shape[1]} x "
                f"{arrays[0].shape[0]}; set source.image_size to bring all images to one size"
            )
        arrays.append(array)
    if not arrays:
        raise UserError(f"{where}: there are no images")
    if min(arrays[0].shape[:2]) < SMALLEST_SIDE:
        raise UserError(
            f"{where}: images of {arrays[0].shape[1]} x {arrays[0].shape[0]} pixels; at least {SMALLEST_SIDE} a side"
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _open(value: Any, where: str) -> Image.Image:
    """The RGB picture behind a row of an undecoded image column: bytes, or the path of a file."""
    try:
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise UserError(
            f"{where} is no image that Pillow can read ({_first_line(error)}); mend or remove it"
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB; alpha is laid over black."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize until the image covers `size` (height, width), then cut out its centre."""
    if (image.height, image.width) == size:
        return image
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)


def _digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("source.builtin=digits needs scikit-learn: pip install 'srel_hub[viz]'") from None
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pixels = torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    train, evaluation = (Images(pixels[half], labels[half]) for half in halves)
    return Source(tuple(str(name) for name in digits.target_names), lambda: train, lambda: evaluation)


def statistics(pixels: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per RGB channel in [0, 1], to four places."""
    counts = torch.stack([pixels[:, channel].flatten().bincount(minlength=256) for channel in range(3)]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share @ values**2 - mean**2).clamp(min=0).sqrt()
    rounded = [[round(float(v), 4) for v in row] for row in (mean, std.clamp(min=1 / 255))]
    return tuple(rounded[0]), tuple(rounded[1])  # type: ignore[return-value]


def random_subset(images: Images, per_class: int, num_classes: int, generator: torch.Generator) -> Images:
    """`per_class` random images of every class, all of a class that has fewer."""
    chosen = []
    for label in range(num_classes):
        members = (images.labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    index = torch.cat(chosen)
    return Images(images.pixels[index], images.labels[index])
