"""Decoded images: uint8 tensors that are memory-mapped from a file, so that memory does not grow with their number."""

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from srel_hub.storage.safetensors_writer import create_safetensors


Picture = tuple[int, NDArray[np.uint8]]  # its row, and uint8 [H, W, 3]

MOST_OF_DEVICE = 0.5  # of a device's free memory, which images may take


def write_pixels(path: Path, count: int, images: Iterable[Picture]) -> None:
    """Write `count` images of one size, each with its row, as one tensor `pixels` uint8 [count, 3, H, W].

    Args:
        images: rows and pictures uint8 [H, W, 3], in any order.
    """
    arrived = iter(images)
    first = next(arrived)
    height, width, _ = first[1].shape
    layout = {"pixels": ("U8", (count, 3, height, width))}
    with create_safetensors(path, layout, {}) as write:
        for row, picture in itertools.chain([first], arrived):
            write("pixels", row, picture.transpose(2, 0, 1))


def in_memory(count: int, images: Iterable[Picture]) -> Tensor:
    """As `write_pixels`, to memory: uint8 [count, 3, H, W]."""
    arrived = iter(images)
    first = next(arrived)
    height, width, _ = first[1].shape
    pixels = torch.empty(count, 3, height, width, dtype=torch.uint8)
    for row, picture in itertools.chain([first], arrived):
        pixels[row] = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    return pixels


def map_pixels(path: Path) -> Tensor:
    """uint8 [N, 3, H, W], read from the file as it is used. Not to be written to."""
    with safe_open(path, framework="pt") as tensors:
        pixels: Tensor = tensors.get_tensor("pixels")
    return pixels


def spilled(count: int, images: Iterable[Picture]) -> Tensor:
    """As `map_pixels`, from a file without a name, which goes with the tensor."""
    with tempfile.TemporaryDirectory(prefix="srel-pixels-") as folder:
        write_pixels(Path(folder, "pixels"), count, images)
        return map_pixels(Path(folder, "pixels"))


def to_device_if_it_fits(pixels: Tensor, device: torch.device) -> Tensor:
    """The images on the device where they fit, else as they are."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if pixels.nbytes > MOST_OF_DEVICE * free:
            return pixels
    return pixels.to(device)
