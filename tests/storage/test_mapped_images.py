"""Images in memory and images mapped from a temporary file are the same, and nothing is left behind."""

import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from srel_hub.storage.mapped_images import in_memory_or_mapped


@pytest.mark.parametrize("memory", [1 << 40, 0], ids=["in memory", "mapped"])
@pytest.mark.filterwarnings("error")
def test_the_pixels_do_not_depend_on_where_they_are(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": memory}))
    expected = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
    rows = torch.randperm(7).tolist()
    pictures = [(row, np.asarray(expected[row].permute(1, 2, 0))) for row in rows]
    pixels = in_memory_or_mapped(7, (4, 5), iter(pictures))
    assert torch.equal(pixels, expected) and pixels.is_contiguous()
    pixels[0] = 0  # a copy of the file's content, which may be written to
    assert not list(tmp_path.iterdir())
