"""Top-k hits."""

import torch

from srel_hub.core.metrics import is_in_top_k


def test_a_label_is_in_the_top_k_if_its_logit_is_among_the_k_largest() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    labels = torch.tensor([0, 1, 0])
    assert is_in_top_k(logits, labels, 1).tolist() == [True, False, False]
    assert is_in_top_k(logits, labels, 2).tolist() == [True, True, False]
    assert is_in_top_k(logits, labels, 5).all()
