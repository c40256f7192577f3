"""Real patches to start recover from: square crops of training images that the teacher recognizes best.

RDED (Sun et al., 2024, section 3.2): some images of every class are drawn, the teacher scores some random crops of
every image, and the best crops are kept. The recipe may tile several crops into one image. Here a crop is enlarged to
full size before it is scored.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from srel_hub.config import Patches
from srel_hub.core.augment import crop, normalize, random_resized_boxes
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.storage.condensed_table import decode_image, encode_png, read_rows_of, write_parquet
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.class_subset import complete_network, own_indices
from srel_hub.teachers.classifier import Classifier


FOLDER = "patches"  # in the run directory; also the name of its units


@dataclass(frozen=True)
class Candidates:
    """The real images that crops are taken from.

    Attributes:
        pixels: uint8 [M, 3, H, W].
        labels: int64 [M], their classes.
        rows: int64 [M], their rows in the training split.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ClassCandidates:
    """The candidates of one class.

    Attributes:
        pixels: uint8 [M, 3, H, W], of all classes.
        positions: int64 [n], the positions of this class's images in `pixels`.
        rows: int64 [n], their rows in the training split.
        label: The class.
    """

    pixels: Tensor
    positions: Tensor
    rows: Tensor
    label: int


@dataclass(frozen=True)
class Patch:
    """The origin of a patch.

    Attributes:
        row: The row in the training split.
        box: Crop (top, left, height, width) in the image at the dataset's size.
        loss: The teacher's cross-entropy with the class.
    """

    row: int
    box: Sequence[int]
    loss: float


Tile = tuple[Tensor, list[Patch]]  # an image uint8 [3, H, W] made of patches, and where they are from


def choose_patches(
    classifier: Classifier, candidates: Candidates, classes: range, spec: Patches, ipc: int, seed: int
) -> Iterator[list[Tile]]:
    """Choose the patches of several classes.

    Yields:
        `ipc` images for each class, best first.
    """
    for label in classes:
        members = (candidates.labels == label).nonzero()[:, 0]
        of_class = ClassCandidates(candidates.pixels, members, candidates.rows[members], label)
        yield best_patches(classifier, of_class, spec, ipc, generator(seed, "recover", FOLDER, label))


def best_patches(
    classifier: Classifier, images: ClassCandidates, spec: Patches, ipc: int, draw: torch.Generator
) -> list[Tile]:
    """Choose the best patches of one class.

    Args:
        classifier: The teacher, which scores the crops.
        images: The class's images.
        spec: The recipe's section.
        ipc: Number of images to return.
        draw: The class's generator.
    """
    tried, tiles = torch.arange(len(images.rows)).repeat_interleave(spec.crops), spec.tiles**2
    boxes = random_resized_boxes(spec.scale, (1.0, 1.0), len(tried), classifier.size, draw)
    losses = score(classifier, images.pixels, images.positions[tried], boxes, images.label)
    best = ranked(losses.view(-1, spec.crops), spec.keep)[: ipc * tiles]
    chosen = []
    for crops in best.split(tiles):
        sources = [images.pixels[position] for position in images.positions[tried[crops]]]
        origins = zip(images.rows[tried[crops]].tolist(), boxes[crops].tolist(), losses[crops].tolist(), strict=True)
        chosen.append((tiled(sources, boxes[crops].tolist(), spec.tiles), [Patch(*origin) for origin in origins]))
    return chosen


@torch.no_grad()
def score(classifier: Classifier, pixels: Tensor, rows: Tensor, boxes: Tensor, label: int) -> Tensor:
    """Compute the teacher's cross-entropy between crops and a class.

    Args:
        classifier: The teacher.
        pixels: uint8 [M, 3, H, W].
        rows: int64 [N], the image of each crop.
        boxes: integers [N, 4], the crops (top, left, height, width).
        label: The class.

    Returns:
        float32 [N].
    """
    network = complete_network(classifier.model)  # as in the optimization, all of its classes compete
    device = next(network.parameters()).device
    table, losses = classifier.table(device), []
    batch = prediction_batch(classifier.size)
    for part, box in zip(rows.split(batch), boxes.split(batch), strict=True):
        cropped = crop(pixels[part].to(device), box.to(device))
        logits = network(normalize(cropped, table)).logits.float()
        target = own_indices(classifier.model, torch.full((len(part),), label, device=device))
        losses.append(F.cross_entropy(logits, target, reduction="none").cpu())
    return torch.cat(losses)


def ranked(losses: Tensor, keep: str) -> Tensor:
    """Rank crops: every image's best first, then every image's second, and so on.

    Args:
        losses: [M, C], cross-entropy of C crops of M images with the class.
        keep: 'easiest' ranks by the lowest loss, 'median' by the distance of the confidence exp(-loss) from its median.

    Returns:
        int64 [M * C], positions in the flattened losses.
    """
    key = losses
    if keep == "median":
        confidence = (-losses).exp()
        key = (confidence - confidence.median()).abs()
    within = key.argsort(dim=1, stable=True)  # of every image, its crops from best to worst
    by_turn = key.gather(1, within)
    order = by_turn.argsort(dim=0, stable=True)
    turns = [order[:, turn] * losses.shape[1] + within[order[:, turn], turn] for turn in range(losses.shape[1])]
    return torch.cat(turns)


def tiled(images: Sequence[Tensor], boxes: Sequence[Sequence[int]], tiles: int) -> Tensor:
    """Crop images, resize them (Pillow, bilinear) and lay them side by side, row by row.

    Args:
        images: tiles * tiles images uint8 [3, H, W].
        boxes: The crop of each image.
        tiles: Crops per side.

    Returns:
        uint8 [3, H, W].
    """
    _, H, W = images[0].shape
    canvas = np.empty((H, W, 3), dtype=np.uint8)
    for place, (image, (top, left, height, width)) in enumerate(zip(images, boxes, strict=True)):
        row, column = divmod(place, tiles)
        down, across = (H * row // tiles, H * (row + 1) // tiles), (W * column // tiles, W * (column + 1) // tiles)
        whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        cut = whole.crop((left, top, left + width, top + height))
        cut = cut.resize((across[1] - across[0], down[1] - down[0]), Image.Resampling.BILINEAR)
        canvas[down[0] : down[1], across[0] : across[1]] = np.asarray(cut)
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def unit_name(classes: range) -> str:
    """Return the name of the unit of `classes`, which is also the name of its files."""
    return f"class-{classes.start:05d}"


def save_patches(folder: Path, classes: range, chosen: Sequence[Sequence[Tile]], classifier: Classifier) -> list[Path]:
    """Write the patches of a block of classes, ipc index by ipc index, and their origins to a second file."""
    by_index = [tile for index in zip(*chosen, strict=True) for tile in index]
    labels = list(classes) * (len(by_index) // len(classes))
    table, origins = folder / f"{unit_name(classes)}.parquet", folder / f"{unit_name(classes)}.json"
    with atomic_write(table) as temporary:
        write_parquet(temporary, [encode_png(image) for image, _ in by_index], labels, classifier.class_names)
    with atomic_write(origins) as temporary:
        sources = [[asdict(patch) for patch in patches] for _, patches in by_index]
        temporary.write_text(json.dumps(sources), encoding="utf-8")
    return [table, origins]


def read_patches(folder: Path, ipcs: range, classes: range) -> Tensor:
    """Read the patches of these ipc indices and classes, uint8 [ipc, class, 3, H, W]."""
    rows = range(ipcs.start * len(classes), ipcs.stop * len(classes))
    images = [decode_image(png) for png, _ in read_rows_of(folder / f"{unit_name(classes)}.parquet", rows)]
    return torch.stack(images).view(len(ipcs), len(classes), *images[0].shape)
