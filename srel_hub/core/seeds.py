"""Units of work: how a stage splits its work, and the random generator of each unit.

Runs are deterministic because each unit draws from its own generator, so its result does not depend on the other units.
"""

import hashlib

import torch


def blocks(count: int, size: int) -> list[range]:
    """Split `count` indices into runs of `size`. The last may be shorter, but a last run of one joins the one before.

    A block is often a batch, and a batch of one image has no variance for BatchNorm.
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def derive_seed(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for one unit of work, from the recipe's seed and the unit's name (`key`)."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """Return the random generator of one unit of work, on the CPU.

    It does not depend on which units ran before, where, or in what order.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *key))
