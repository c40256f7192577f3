"""How the K logits of a label are stored: as float16, as bytes, or as the k largest with the mean of the others.

    stored = encode(logits, encoding)      # tensors by their names in the label file
    logits = decode(stored, encoding)      # dense again, float32 [B, K]

docs/reference/label-format.md specifies the arithmetic, so that other programs can decode the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from srel_hub.config import Relabel


Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # safetensors' dtype code and the shape of each tensor, by name

ENCODINGS = ("float16", "uint8", "topk", "none")
TENSORS = ("logits", "values", "scales", "indices", "rest")  # all tensors that hold labels, in any encoding
STEPS = 255  # between a row's least and largest stored value
INT16_MAX = 32_767  # larger class indices are stored as int32


@dataclass(frozen=True)
class Encoding:
    """An encoding of rows of K logits.

    Attributes:
        name: one of ENCODINGS; 'none' stores nothing.
        num_classes: K.
        k: how many logits of a row are stored one by one; K unless the name is 'topk'.
        values: 'float16' or 'uint8', the dtype of the k logits.
    """

    name: str
    num_classes: int
    k: int
    values: str

    @property
    def is_dense(self) -> bool:
        """Return whether all K logits of a row are stored one by one."""
        return self.k == self.num_classes

    def __str__(self) -> str:
        return self.name if self.name != "topk" else f"topk, k {self.k}, {self.values}"


def encoding_of(name: str, num_classes: int, top_k: int | None = None, top_values: str | None = None) -> Encoding:
    """Return the encoding called `name` for rows of `num_classes` logits.

    Args:
        name: one of ENCODINGS.
        num_classes: K.
        top_k: for 'topk', how many logits of a row to store; all K if it is larger.
        top_values: for 'topk', 'float16' (the default) or 'uint8'.
    """
    if name == "topk":
        return Encoding(name, num_classes, min(top_k or num_classes, num_classes), top_values or "float16")
    return Encoding(name, num_classes, num_classes, "uint8" if name == "uint8" else "float16")


def recipe_encoding(spec: Relabel, num_classes: int) -> Encoding:
    """Return the encoding that the section `relabel` sets, for rows of `num_classes` logits."""
    return encoding_of(spec.encoding, num_classes, spec.top_k, spec.top_values)


def layout(encoding: Encoding, rows: int) -> Layout:
    """Return dtype code and shape, by name, of the tensors that store `rows` rows of labels."""
    if encoding.name == "float16":
        return {"logits": ("F16", (rows, encoding.num_classes))}
    is_bytes = encoding.values == "uint8"
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"values": ("U8" if is_bytes else "F16", (rows, encoding.k))}
    if is_bytes:
        tensors["scales"] = ("F32", (rows, 2))
    if not encoding.is_dense:
        tensors["indices"] = ("I16" if encoding.num_classes <= INT16_MAX else "I32", (rows, encoding.k))
        tensors["rest"] = ("F16", (rows,))
    return tensors


def encode(logits: Tensor, encoding: Encoding, indices: Tensor | None = None) -> dict[str, Tensor]:
    """Encode logits.

    Args:
        logits: finite float32 [B, K].
        encoding: any but 'none'.
        indices: int64 [B, k], the logits of each row to store, in increasing order. Default: the k largest.

    Returns:
        tensors of B rows, with names, dtypes and shapes of `layout`.
    """
    if encoding.name == "float16":
        return {"logits": logits.half()}
    kept, stored = logits, dict[str, Tensor]()
    if not encoding.is_dense:
        if indices is None:
            indices = logits.topk(encoding.k, dim=1).indices.sort(1).values
        kept = logits.gather(1, indices)
        # In float64: a float32 sum of 1,000 logits would lose more than the float16 of the result does.
        others = logits.double().sum(1) - kept.double().sum(1)
        stored["indices"] = indices.to(torch.int16 if encoding.num_classes <= INT16_MAX else torch.int32)
        stored["rest"] = (others / (encoding.num_classes - encoding.k)).half()
    return stored | (_in_steps(kept) if encoding.values == "uint8" else {"values": kept.half()})


def _in_steps(z: Tensor) -> dict[str, Tensor]:
    """Return values uint8 [B, k] and scales float32 [B, 2], (minimum, step), so that z = minimum + step * value."""
    low, high = z.double().aminmax(dim=1)
    scales = torch.stack([low, (high - low) / STEPS], 1).float()
    minimum, step = scales.double().split(1, dim=1)
    values = ((z.double() - minimum) / torch.where(step > 0, step, 1)).round().clamp(0, STEPS)
    return {"values": values.to(torch.uint8), "scales": scales}


def decode(stored: Mapping[str, Tensor], encoding: Encoding) -> Tensor:
    """Decode logits, in float32 arithmetic: the product of step and value is rounded, then its sum with the minimum.

    Args:
        stored: tensors of B rows that `encode` returned.
        encoding: the encoding that `encode` used.

    Returns:
        float32 [B, K]. With 'topk', logits that were not stored are the mean of the rest.
    """
    if encoding.name == "float16":
        return stored["logits"].float()
    values = stored["values"].float()
    if encoding.values == "uint8":
        minimum, step = stored["scales"].split(1, dim=1)
        values = step * values + minimum
    if encoding.is_dense:
        return values
    dense = stored["rest"].float()[:, None].repeat(1, encoding.num_classes)
    return dense.scatter_(1, stored["indices"].long(), values)


def has_true_indices(stored: Mapping[str, Tensor], encoding: Encoding) -> bool:
    """Return whether every row's indices are classes and strictly increasing; True if the encoding has no indices."""
    if "indices" not in stored:
        return True
    indices = stored["indices"].long()
    in_range = ((indices >= 0) & (indices < encoding.num_classes)).all()
    return bool(in_range and (indices.diff(dim=1) > 0).all())
