"""Blocks of work."""

import pytest

from srel_hub.core.seeds import blocks


@pytest.mark.parametrize(("count", "size", "lengths"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (4, 4, [4])])
def test_blocks_never_end_in_a_block_of_one(count: int, size: int, lengths: list[int]) -> None:
    assert [len(block) for block in blocks(count, size)] == lengths
    assert [i for block in blocks(count, size) for i in block] == list(range(count))
