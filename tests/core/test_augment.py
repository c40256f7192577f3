"""Augmentation against Pillow, torchvision's rule and plain loops over pixels; the same bytes on every device."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srel_hub.config import Augment
from srel_hub.core import augment
from srel_hub.core.seeds import generator


SIDES = st.integers(1, 70)


def random_images(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), generator=draw, dtype=torch.uint8)


def pillow_crop(image: torch.Tensor, box: list[int]) -> torch.Tensor:
    top, left, height, width = box
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    enlarged = picture.resize((image.shape[2], image.shape[1]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(enlarged).copy()).permute(2, 0, 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(height=SIDES, width=SIDES, seed=st.integers(0, 10**6))
def test_crop_is_pillows_value_for_value(height: int, width: int, seed: int) -> None:
    check_crop(height, width, seed)


@pytest.mark.long
@settings(max_examples=4000, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_crop_is_pillows_at_every_size(height: int, width: int, seed: int) -> None:
    check_crop(height, width, seed)


def check_crop(height: int, width: int, seed: int) -> None:
    images = random_images(8, (height, width), seed)
    boxes = augment.random_resized_boxes((0.01, 1.0), (0.3, 3.0), 8, (height, width), generator(seed, "boxes"))
    cropped = augment.crop(images, boxes)
    for image, box, result in zip(images, boxes.tolist(), cropped, strict=True):
        assert torch.equal(result, pillow_crop(image, box))


@pytest.mark.parametrize("side", [96, 160, 200, 224])
def test_crop_is_pillows_at_the_usual_sizes(side: int) -> None:
    images = random_images(4, (side, side), side)
    boxes = augment.random_resized_boxes((0.08, 1.0), (3 / 4, 4 / 3), 4, (side, side), generator(side, "boxes"))
    for image, box, result in zip(images, boxes.tolist(), augment.crop(images, boxes), strict=True):
        assert torch.equal(result, pillow_crop(image, box))


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), padding=st.integers(1, 25), seed=st.integers(0, 10**6))
def test_padded_crop_is_a_cut_out_of_the_image_on_black(height: int, width: int, padding: int, seed: int) -> None:
    spec = Augment(crop="padded", padding=padding)
    images = random_images(6, (height, width), seed)
    boxes = augment.sample_boxes(spec, 6, (height, width), generator(seed, "padded"))
    canvas = torch.nn.functional.pad(images, [padding] * 4)
    for image, (top, left, _, _), result in zip(canvas, boxes.tolist(), augment.crop(images, boxes), strict=True):
        rows, columns = slice(top + padding, top + padding + height), slice(left + padding, left + padding + width)
        assert torch.equal(result, image[:, rows, columns])
    assert boxes[:, :2].abs().max() <= padding


def reference_box(
    scale: tuple[float, float], ratio: tuple[float, float], size: tuple[int, int], draws: np.ndarray
) -> list[int]:
    """RandomResizedCrop.get_params as its documentation describes it, for one image at a time."""
    height, width = size
    for area_draw, ratio_draw, top_draw, left_draw in draws.T:
        area = height * width * (scale[0] + area_draw * (scale[1] - scale[0]))
        aspect = math.exp(math.log(ratio[0]) + ratio_draw * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < min(ratio):
        h = min(height, round(w / min(ratio)))
    elif width / height > max(ratio):
        w = min(width, round(h * max(ratio)))
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize("size", [(32, 32), (8, 64), (64, 8), (5, 5)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_boxes_follow_torchvisions_rule(size: tuple[int, int], scale: tuple[float, float]) -> None:
    ratio, count = (3 / 4, 4 / 3), 200
    boxes = augment.random_resized_boxes(scale, ratio, count, size, generator(3, "rule"))
    draws = torch.rand(4, augment.TRIES, count, generator=generator(3, "rule"), dtype=torch.float64).numpy()
    assert boxes.tolist() == [reference_box(scale, ratio, size, draws[:, :, i]) for i in range(count)]


def test_the_centered_fallback_is_reached() -> None:
    boxes = augment.random_resized_boxes((0.99, 1.0), (3 / 4, 4 / 3), 20, (8, 64), generator(0, "fallback"))
    assert boxes.tolist() == [[0, (64 - 11) // 2, 8, 11]] * 20


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 1000.0])
def test_mix_shares_are_beta_distributed(alpha: float) -> None:
    shares = augment.sample_beta(alpha, 50_000, generator(0, "beta"))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    assert float(shares.min()) >= 0 and float(shares.max()) <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    mix=st.sampled_from(["none", "cutmix", "mixup"]),
    crop=st.sampled_from(["none", "resized", "padded"]),
    flip=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_render_is_what_the_record_says(height: int, width: int, mix: str, crop: str, flip: bool, seed: int) -> None:
    """Compare with plain loops over pixels; an image alone gives the same bytes as in a batch."""
    spec = Augment(crop=crop, flip=flip, mix=mix, padding=3)  # type: ignore[arg-type]
    size, count = (height, width), 7
    images = random_images(count, size, seed)
    views = augment.sample_views(spec, count, size, generator(seed, "views"))
    crops = augment.crop(images, views.boxes)
    cropped_views = [crops[i].flip(-1) if views.flips[i] else crops[i] for i in range(count)]
    expected = [image.clone() for image in cropped_views]
    for i in range(count):
        if views.mix_boxes is not None:
            top, left, h, w = views.mix_boxes[i].tolist()
            other = cropped_views[int(views.partners[i])]
            expected[i][:, top : top + h, left : left + w] = other[:, top : top + h, left : left + w]
        if views.mix_weights is not None:
            w, other = int(views.mix_weights[i]), cropped_views[int(views.partners[i])]
            expected[i] = ((w * cropped_views[i].int() + (256 - w) * other.int() + 128) >> 8).to(torch.uint8)
    batch = augment.render(images, views, range(count))
    assert torch.equal(batch, torch.stack(expected))
    for i in range(count):
        assert torch.equal(augment.render(images, views, [i])[0], batch[i])


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_cutmix_records_are_well_formed(height: int, width: int, seed: int) -> None:
    views = augment.sample_views(Augment(mix="cutmix"), 30, (height, width), generator(seed, "cutmix"))
    assert views.partners is not None and views.mix_boxes is not None
    top, left, h, w = views.mix_boxes.long().unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    unmixed = views.partners.long() == torch.arange(30)
    assert (views.mix_boxes[unmixed] == 0).all() and (h[~unmixed] * w[~unmixed] > 0).all()
    shares = 1 - (h * w).float() / (height * width)
    assert torch.equal(views.own_share((height, width)), shares)


def test_selected_views_keep_what_is_recorded_and_nothing_else() -> None:
    views = augment.sample_views(Augment(mix="mixup"), 9, (8, 8), generator(2, "select"))
    rows = torch.tensor([7, 0])
    selected = views.select(rows)
    assert torch.equal(selected.boxes, views.boxes[rows]) and torch.equal(selected.flips, views.flips[rows])
    assert selected.partners is not None and views.partners is not None
    assert torch.equal(selected.partners, views.partners[rows]), "partners still index all images"
    assert selected.mix_boxes is None and selected.patches is None


def test_normalization_is_the_formula_in_float64_rounded_once() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    table = augment.normalization_table(mean, std)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    exact = (np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
    assert torch.equal(augment.normalize(images, table)[1].flatten(1), torch.from_numpy(exact.astype(np.float32)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_a_gpu_shows_the_same_bytes(mix: str) -> None:
    images = random_images(64, (33, 32), 1)
    views = augment.sample_views(Augment(mix=mix), 64, (33, 32), generator(1, "gpu"))
    here = augment.render(images, views, range(64))
    there = augment.render(images.cuda(), views.to(torch.device("cuda")), range(64))
    table = augment.normalization_table((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    assert torch.equal(there.cpu(), here)
    assert torch.equal(augment.normalize(there, table.cuda()).cpu(), augment.normalize(here, table))


def test_threads_do_not_change_a_byte() -> None:
    images = random_images(64, (32, 32), 1)
    views = augment.sample_views(Augment(mix="mixup"), 64, (32, 32), generator(1, "threads"))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(augment.render(images, views, random.Random(0).sample(range(64), 64)))
    assert torch.equal(*results)
