"""Units of work: how a stage's work is cut, and each unit's own random generator."""

import hashlib

import torch


def blocks(count: int, size: int) -> list[range]:
    """Runs of `size` consecutive indices; the last may be shorter, but a run of one joins the one before."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def derive_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for one unit of work, from the recipe's seed and the unit's own name."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """The random generator of one unit of work: independent of which units ran before, where, or in what order."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))
