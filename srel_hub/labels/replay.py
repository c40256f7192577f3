"""The check `replay`: recompute a random sample of the stored labels with the published teacher."""

import torch
from torch import Tensor

from srel_hub.core.augment import render
from srel_hub.core.encodings import decode, encode
from srel_hub.core.engine import FLOAT32
from srel_hub.errors import UserError
from srel_hub.labels.checks import Subject, fastest_device
from srel_hub.labels.labeller import groups_of, make_labeller


SAMPLED_EPOCHS, SAMPLED_IMAGES = 8, 32  # up to 256 labels are recomputed
FLOAT16_STEP = 2.0**-10  # relative: two roundings to float16, each by at most 2^-11


@torch.no_grad()
def replay(subject: Subject) -> str | None:
    """Check that the teacher's logits on a sample of replayed views are the stored labels.

    The sample is random, so that a dataset cannot be prepared for it.
    """
    epochs = subject.manifest.epochs
    if subject.fast:
        return None
    if epochs == 0:
        return "there are no stored labels to compare with"
    subject.condensed.require_rows()
    draw = torch.Generator()
    draw.seed()
    chosen = torch.randperm(epochs, generator=draw)[:SAMPLED_EPOCHS].sort().values.tolist()
    device = fastest_device()
    labeller = make_labeller(subject.condensed.classifiers, FLOAT32, device, subject.manifest.group_size)
    count = 0
    for epoch in chosen:
        for rows in _sample_rows(subject, epoch, draw):
            computed = labeller(render(subject.condensed.pixels, subject.labels.views(epoch), rows)).cpu()
            _require_close(subject, computed, rows, epoch)
            count += len(rows)
    return f"recomputed the labels of {count} random views from {len(chosen)} of {epochs} epochs: all equal"


def _sample_rows(subject: Subject, epoch: int, draw: torch.Generator) -> list[Tensor]:
    """Draw about SAMPLED_IMAGES images, as one batch or as the groups that they were labeled in."""
    size, N = subject.manifest.group_size, subject.manifest.num_images
    if size is None:
        return [torch.randint(N, (SAMPLED_IMAGES,), generator=draw).unique()]
    groups = groups_of(subject.labels.order(epoch), size)
    chosen = torch.randperm(len(groups), generator=draw)[: max(1, SAMPLED_IMAGES // size)]
    return [groups[index] for index in chosen]


def _require_close(subject: Subject, computed: Tensor, rows: Tensor, epoch: int) -> None:
    """Reject stored logits that are not the teacher's, up to rounding.

    Labels that were computed in float32 must agree elementwise (`_float32_tolerance`). Labels of lower precision must
    agree in L2 norm and in the predicted class (`_wrong_in_low_precision`). In both cases uint8 values may be one step
    off. For 'topk', the stored logits and the mean of the rest are compared, and no other logit of the teacher may
    exceed the smallest stored one by more than the tolerance.

    Args:
        subject: The dataset.
        computed: The teacher's logits, float32 [B, K].
        rows: The images, int64 [B].
        epoch: The stored epoch.
    """
    if not computed.isfinite().all():
        raise UserError(f"epoch {epoch}: the teacher's logits are not finite")
    tensors, encoding = subject.labels.stored(epoch, rows), subject.manifest.coding
    stored, indices = decode(tensors, encoding), tensors["indices"].long() if "indices" in tensors else None
    expected = decode(encode(computed, encoding, indices), encoding)
    step = tensors["scales"][:, 1:] if "scales" in tensors else torch.zeros(len(rows), 1)
    if subject.manifest.precision == "float32":
        allowed = step + _float32_tolerance(expected, subject.manifest.group_size)
        wrong = ((stored - expected).abs() > allowed).any(1)
    else:
        norms = expected.norm(dim=1, keepdim=True)
        # A network's errors do not shrink with its logits, so rows of small norm get the tolerance of a mean one.
        allowed = step + 0.02 * norms.maximum(norms.mean())
        wrong = _wrong_in_low_precision(stored, expected, allowed[:, 0])
    if indices is not None:
        least = computed.gather(1, indices).amin(1)
        wrong |= computed.scatter(1, indices, -torch.inf).amax(1) > least + allowed.amax(1)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        worst = float((stored - expected)[row].abs().max())
        raise UserError(
            f"epoch {epoch}, image {int(rows[row])}: the stored logits differ from the teacher's by up to {worst:.3g} "
            f"({int(wrong.sum())} of {len(rows)} sampled images; labels were computed in {subject.manifest.precision})"
        )


def _float32_tolerance(expected: Tensor, group_size: int | None) -> Tensor:
    """Return the allowed difference per logit: float16's rounding, ten times as much with batch statistics.

    Batch statistics are sums over a group, and another device adds them in another order.
    """
    return (1 if group_size is None else 10) * (1e-3 + FLOAT16_STEP * expected.abs())


def _wrong_in_low_precision(stored: Tensor, expected: Tensor, allowed: Tensor) -> Tensor:
    """Return bool [B], whether a row has an L2 error above `allowed` [B], or a different predicted class.

    The class may differ if the two largest logits are closer to each other than that error.
    """
    error = (stored - expected).norm(dim=1)
    largest = expected.topk(min(2, expected.shape[1]), dim=1).values
    is_tie = (largest[:, 0] - largest[:, -1]) <= error
    other_class = (stored.argmax(1) != expected.argmax(1)) & ~is_tie
    wrong: Tensor = ~(error <= allowed) | other_class  # negated, so that NaN is wrong
    return wrong
