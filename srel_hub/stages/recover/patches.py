"""Real patches to begin recover with: square crops of training images that the teacher knows best.

RDED (Sun et al., 2024, section 3.2): of every class some images are looked at, of every image some random crops are
tried, and those that the teacher scores best are kept, tiled where one image holds several. Here a crop is scored at
full size, as the teacher would see it.
"""

import json
from collections.abc import Sequence
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
from srel_hub.data.splits import Split, random_subset
from srel_hub.errors import UserError
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.storage.condensed_table import decode_image, encode_png, read_parquet, write_parquet
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.classifier import Classifier


FOLDER = "patches"


@dataclass(frozen=True)
class Patch:
    """Where a patch is from: row of the training split, box (top, left, height, width) in the image of the dataset's
    size, and the teacher's cross-entropy."""

    row: int
    box: Sequence[int]
    loss: float


@dataclass(frozen=True)
class ClassImages:
    """One class's images that are looked at: rows int64 [M] of the split, at `places` int64 [M] of `pixels`."""

    pixels: Tensor
    places: Tensor
    rows: Tensor
    label: int


def cut_patches(run: Run, classifier: Classifier, train: Split, class_blocks: Sequence[range]) -> Path:
    """Choose and keep every class's patches that are not marked yet: `patches/class-00000.parquet` a block of classes.

    Returns:
        their folder.
    """
    spec, ipc, K = run.recipe.recover.patches, run.recipe.recover.ipc, len(classifier.class_names)
    assert spec is not None
    units = {unit_name(block): block for block in class_blocks}
    rows = random_subset(train.labels, spec.images, K, generator(run.recipe.seed, "recover", FOLDER))
    pixels = source_images(run, train, classifier.frame, rows).pixels
    steps = {name: len(block) for name, block in units.items()}
    with Work(run, FOLDER, steps, "class") as work:
        for name in work:
            chosen = []
            for label in work.steps(units[name]):
                members = (train.labels[rows] == label).nonzero()[:, 0]
                draw = generator(run.recipe.seed, "recover", FOLDER, label)
                images = ClassImages(pixels, members, rows[members], label)
                chosen.append(best_patches(classifier, images, spec, ipc, draw))
            work.done(_save(run.path(FOLDER), name, units[name], chosen, classifier))
    return run.path(FOLDER)


def unit_name(block: range) -> str:
    return f"class-{block.start:05d}"


def best_patches(
    classifier: Classifier, images: ClassImages, spec: Patches, ipc: int, draw: torch.Generator
) -> list[tuple[Tensor, list[Patch]]]:
    """A class's images of patches, uint8 [3, H, W], the best first, and where each one's tiles are from."""
    tried, tiles = torch.arange(len(images.rows)).repeat_interleave(spec.crops), spec.tiles**2
    boxes = random_resized_boxes(spec.scale, (1.0, 1.0), len(tried), classifier.size, draw)
    losses = score(classifier, images.pixels, images.places[tried], boxes, images.label)
    best = ranked(losses.view(-1, spec.crops), spec.keep)[: ipc * tiles]
    found = []
    for of in best.split(tiles):
        cuts = [images.pixels[place] for place in images.places[tried[of]]]
        told = zip(images.rows[tried[of]].tolist(), boxes[of].tolist(), losses[of].tolist(), strict=True)
        found.append((tiled(cuts, boxes[of].tolist(), spec.tiles), [Patch(*each) for each in told]))
    return found


@torch.no_grad()
def score(classifier: Classifier, pixels: Tensor, rows: Tensor, boxes: Tensor, label: int) -> Tensor:
    """float32 [N]: the teacher's cross-entropy of each crop with the class."""
    device = next(classifier.model.parameters()).device
    table, losses = classifier.table(device), []
    batch = prediction_batch(classifier.size)
    for some, box in zip(rows.split(batch), boxes.split(batch), strict=True):
        shown = crop(pixels[some].to(device), box.to(device))
        logits = classifier.model(normalize(shown, table)).logits.float()
        losses.append(F.cross_entropy(logits, torch.full((len(some),), label, device=device), reduction="none").cpu())
    return torch.cat(losses)


def ranked(losses: Tensor, keep: str) -> Tensor:
    """int64 [M * C]: crops of M images, C each, the best first: every image's best, then every image's second, ...

    Args:
        losses: [M, C], cross-entropy with the class.
        keep: 'easiest', least loss first; 'median', nearest to the median of the class's confidence exp(-loss).
    """
    key = losses
    if keep == "median":
        confidence = (-losses).exp()
        key = (confidence - confidence.median()).abs()
    within = key.argsort(dim=1, stable=True)
    by_turn = key.gather(1, within)
    order = by_turn.argsort(dim=0, stable=True)
    turns = [order[:, turn] * losses.shape[1] + within[order[:, turn], turn] for turn in range(losses.shape[1])]
    return torch.cat(turns)


def tiled(images: Sequence[Tensor], boxes: Sequence[Sequence[int]], tiles: int) -> Tensor:
    """uint8 [3, H, W]: crops of images uint8 [3, H, W], resized (Pillow, bilinear), laid side by side, row by row."""
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


def _save(
    folder: Path, name: str, classes: range, chosen: list[list[tuple[Tensor, list[Patch]]]], classifier: Classifier
) -> list[Path]:
    """Images, ipc index by ipc index, and beside them where they are from."""
    by_index = [each for index in zip(*chosen, strict=True) for each in index]
    labels = list(classes) * (len(by_index) // len(classes))
    table, origins = folder / f"{name}.parquet", folder / f"{name}.json"
    with atomic_write(table) as temporary:
        write_parquet(temporary, [encode_png(image) for image, _ in by_index], labels, classifier.class_names)
    with atomic_write(origins) as temporary:
        temporary.write_text(json.dumps([[asdict(patch) for patch in told] for _, told in by_index]), encoding="utf-8")
    return [table, origins]


def read_patches(folder: Path, ipcs: range, classes: range) -> Tensor:
    """uint8 [G, B, 3, H, W]: the patches of these ipc indices and classes."""
    rows = range(ipcs.start * len(classes), ipcs.stop * len(classes))
    wanted = [
        png for row, (png, _) in enumerate(read_parquet(folder / f"{unit_name(classes)}.parquet")) if row in rows
    ]
    return torch.stack([decode_image(png) for png in wanted]).view(
        len(ipcs), len(classes), *decode_image(wanted[0]).shape
    )


def require_enough(labels: Tensor, class_names: Sequence[str], spec: Patches, ipc: int) -> None:
    """Refuse classes of too few images for so many patches.

    Raises:
        UserError: naming the smallest.
    """
    counts = labels.bincount(minlength=len(class_names)).clamp(max=spec.images) * spec.crops
    smallest, needed = int(counts.argmin()), ipc * spec.tiles**2
    if counts[smallest] < needed:
        raise UserError(
            f"recover.patches: {ipc} images of {spec.tiles**2} patches need {needed} crops of every class, and "
            f"{class_names[smallest]!r} has {int(counts[smallest])} ({int(labels.eq(smallest).sum())} images, "
            f"images={spec.images}, crops={spec.crops}); raise recover.patches.crops or lower recover.ipc"
        )
