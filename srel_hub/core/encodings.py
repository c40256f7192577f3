"""How a row of logits is stored: as float16, as bytes, or the largest of them with the mean of the rest.

    stored = encode(logits, encoding)      # tensors by their names in the label file
    logits = decode(stored, encoding)      # dense again, float32 [B, K]

docs/format.md has the arithmetic, exactly enough to decode the same bits elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from srel_hub.config import Relabel


Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype code and shape of each tensor, by name

ENCODINGS = ("float16", "uint8", "topk", "none")
TENSORS = ("logits", "values", "scales", "indices", "rest")  # that hold labels, of whatever encoding
STEPS = 255  # between a row's least and largest stored value


@dataclass(frozen=True)
class Encoding:
    """Attributes:
    name: one of ENCODINGS; 'none' stores nothing.
    num_classes: K.
    k: how many logits of a row are kept one by one; K unless 'topk'.
    values: 'float16' or 'uint8', what those are stored as.
    """

    name: str
    num_classes: int
    k: int
    values: str

    @property
    def is_dense(self) -> bool:
        """Whether every logit is stored."""
        return self.k == self.num_classes

    def __str__(self) -> str:
        return self.name if self.name != "topk" else f"topk, k {self.k}, {self.values}"


def encoding_of(name: str, num_classes: int, top_k: int | None = None, top_values: str | None = None) -> Encoding:
    """The encoding of this name for rows of K logits; the last two are told of 'topk' only."""
    if name == "topk":
        return Encoding(name, num_classes, min(top_k or num_classes, num_classes), top_values or "float16")
    return Encoding(name, num_classes, num_classes, "uint8" if name == "uint8" else "float16")


def recipe_encoding(spec: Relabel, num_classes: int) -> Encoding:
    """The encoding that a recipe asks for."""
    return encoding_of(spec.encoding, num_classes, spec.top_k, spec.top_values)


def layout(encoding: Encoding, rows: int) -> Layout:
    """The tensors of so many rows of labels: dtype code and shape by name."""
    if encoding.name == "float16":
        return {"logits": ("F16", (rows, encoding.num_classes))}
    is_bytes = encoding.values == "uint8"
    found: dict[str, tuple[str, tuple[int, ...]]] = {"values": ("U8" if is_bytes else "F16", (rows, encoding.k))}
    if is_bytes:
        found["scales"] = ("F32", (rows, 2))
    if not encoding.is_dense:
        found["indices"] = ("I16" if encoding.num_classes <= 32767 else "I32", (rows, encoding.k))
        found["rest"] = ("F16", (rows,))
    return found


def encode(logits: Tensor, encoding: Encoding, indices: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors that hold these logits.

    Args:
        logits: finite float32 [B, K].
        indices: int64 [B, k], which to keep of each row, increasing; by default the k largest.
    """
    if encoding.name == "float16":
        return {"logits": logits.half()}
    kept, stored = logits, dict[str, Tensor]()
    if not encoding.is_dense:
        if indices is None:
            indices = logits.topk(encoding.k, dim=1).indices.sort(1).values
        kept = logits.gather(1, indices)
        others = logits.double().sum(1) - kept.double().sum(1)
        stored["indices"] = indices.to(torch.int16 if encoding.num_classes <= 32767 else torch.int32)
        stored["rest"] = (others / (encoding.num_classes - encoding.k)).half()
    return stored | (_in_steps(kept) if encoding.values == "uint8" else {"values": kept.half()})


def _in_steps(z: Tensor) -> dict[str, Tensor]:
    """Values uint8 [B, k] and scales float32 [B, 2], (minimum, step), so that z = minimum + step * value."""
    low, high = z.double().aminmax(dim=1)
    scales = torch.stack([low, (high - low) / STEPS], 1).float()
    minimum, step = scales.double().split(1, dim=1)
    values = ((z.double() - minimum) / torch.where(step > 0, step, 1)).round().clamp(0, STEPS)
    return {"values": values.to(torch.uint8), "scales": scales}


def decode(stored: Mapping[str, Tensor], encoding: Encoding) -> Tensor:
    """float32 [B, K]: the logits that these tensors hold; of 'topk', the mean of the rest where none is kept.

    In float32 arithmetic: the product of step and value is rounded, then its sum with the minimum.
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
    """Whether every row's indices are classes, strictly increasing."""
    if "indices" not in stored:
        return True
    indices = stored["indices"].long()
    in_range = ((indices >= 0) & (indices < encoding.num_classes)).all()
    return bool(in_range and (indices.diff(dim=1) > 0).all())
