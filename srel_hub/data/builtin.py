"""The built-in dataset: scikit-learn's handwritten digits, which need no download."""

import numpy as np
import torch

from srel_hub.data.splits import DecodedSplit, Images
from srel_hub.errors import UserError


DIGITS_SPLIT_SEED = 0
DIGITS = {  # fields of the recipe's section `source`
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


def load_digits() -> tuple[tuple[str, ...], DecodedSplit, DecodedSplit]:
    """Return class names, training and eval split of the digits: 898 and 899 images of 8 x 8 pixels.

    scikit-learn has no splits, so the images are divided in halves by a fixed permutation.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise UserError(
            "source.builtin=digits needs scikit-learn, which is not installed; run pip install 'srel_hub[viz]'"
        ) from None
    digits = datasets.load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # their values are 0 to 16
    pixels = torch.from_numpy(gray)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    train, evaluation = (DecodedSplit(Images(pixels[half], labels[half])) for half in halves)
    return tuple(str(name) for name in digits.target_names), train, evaluation
