"""Encodings of labels: what is exact, what is bounded, and the same bits for readers of label-format.md."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import branch, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor

from srel_hub.core.encodings import Encoding, decode, encode, encoding_of, layout
from srel_hub.errors import UserError
from srel_hub.labels.manifest import pool_epoch
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json, sha256
from srel_hub.studies.plan.price import label_bytes


KINDS = [("float16", None, None), ("uint8", None, None), ("topk", 3, "float16"), ("topk", 3, "uint8")]


def some_logits(rows: int, num_classes: int, seed: int, spread: float = 10.0) -> Tensor:
    return spread * torch.randn(rows, num_classes, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9), K=st.integers(2, 40), seed=st.integers(0, 99), values=st.sampled_from(["float16", "uint8"])
)
def test_topk_with_k_of_all_classes_loses_nothing_more(rows: int, K: int, seed: int, values: str) -> None:
    logits = some_logits(rows, K, seed)
    whole = encoding_of("float16" if values == "float16" else "uint8", K)
    topk = encoding_of("topk", K, K + 5, values)
    assert "indices" not in layout(topk, 1) and "rest" not in layout(topk, 1)
    assert torch.equal(decode(encode(logits, topk), topk), decode(encode(logits, whole), whole))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    K=st.integers(2, 40),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 300.0]),
    shift=st.sampled_from([0.0, -50.0, 1000.0]),
)
def test_bytes_are_off_by_half_a_step_at_most(rows: int, K: int, seed: int, spread: float, shift: float) -> None:
    logits, encoding = some_logits(rows, K, seed, spread) + shift, encoding_of("uint8", K)
    stored = encode(logits, encoding)
    step = stored["scales"][:, 1:].double()
    assert torch.allclose(step[:, 0], (logits.amax(1) - logits.amin(1)).double() / 255, rtol=1e-6)
    error = (decode(stored, encoding).double() - logits.double()).abs()
    rounding = 2**-22 * logits.abs().amax(1, keepdim=True)  # of float32 itself
    assert (error <= step / 2 + rounding).all()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), K=st.integers(4, 60), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_mean_of_the_rest_preserves_the_sum_of_the_logits(rows: int, K: int, k: int, seed: int) -> None:
    logits, encoding = some_logits(rows, K, seed), encoding_of("topk", K, k)
    stored = encode(logits, encoding)
    decoded = decode(stored, encoding)
    indices = stored["indices"].long()
    assert torch.equal(indices, logits.topk(k, 1).indices.sort(1).values)
    assert torch.equal(decoded.gather(1, indices), logits.gather(1, indices).half().float())
    off = (decoded.double().sum(1) - logits.double().sum(1)).abs()
    # k logits and one mean, K - k times, are rounded to float16
    allowed = 2**-11 * (logits.gather(1, indices).abs().sum(1) + (K - k) * stored["rest"].float().abs()) + 1e-4
    assert (off <= allowed).all()


def by_the_document(tensors: dict[str, np.ndarray], num_classes: int) -> np.ndarray:
    """docs/reference/label-format.md over numpy."""
    if "logits" in tensors:
        return tensors["logits"].astype(np.float32)
    values = tensors["values"].astype(np.float32)
    if "scales" in tensors:
        values = tensors["scales"][:, 1:] * values + tensors["scales"][:, :1]
    if "indices" not in tensors:
        return values
    dense = np.repeat(tensors["rest"].astype(np.float32)[:, None], num_classes, 1)
    np.put_along_axis(dense, tensors["indices"].astype(np.int64), values, 1)
    return dense


@pytest.mark.parametrize(("name", "k", "values"), KINDS)
def test_numpy_decodes_the_same_bits(name: str, k: int | None, values: str | None) -> None:
    encoding = encoding_of(name, 11, k, values)
    stored = encode(some_logits(50, 11, 3), encoding)
    by_numpy = by_the_document({key: tensor.numpy() for key, tensor in stored.items()}, 11)
    assert np.array_equal(by_numpy, decode(stored, encoding).numpy())


def options(name: str, k: int | None, values: str | None) -> list[str]:
    return [f"relabel.encoding={name}", *([f"relabel.top_k={k}", f"relabel.top_values={values}"] if k else [])]


def stored_labels(run: Run) -> SoftLabels:
    folder = run.path("soft_labels")
    return SoftLabels(read_manifest(folder / "manifest.json"), lambda name: folder / name)


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
@pytest.mark.parametrize(("name", "k", "values"), [*KINDS[:2], ("topk", 2, "float16"), ("topk", 2, "uint8")])
def test_stored_labels_are_the_encoded_logits(
    recovered: tuple[Path, Path], tmp_path: Path, name: str, k: int | None, values: str | None
) -> None:
    """Files have the planned size, rows are read in any order, and labels match float16 within the error."""
    plain = branch(recovered, tmp_path / "plain")
    relabel(plain)
    run = branch(recovered, tmp_path / "coded", *options(name, k, values))
    relabel(run)
    exact, coded = stored_labels(plain), stored_labels(run)
    rows = torch.tensor([5, 0, 8, 3])
    expected = decode(encode(exact.logits(1, rows), coded.manifest.coding), coded.manifest.coding)
    torch.testing.assert_close(coded.logits(1, rows), expected, rtol=2**-9, atol=2e-2)
    assert torch.equal(exact.views(1).boxes, coded.views(1).boxes) and torch.equal(exact.order(0), coded.order(0))
    planned = label_bytes(run.recipe.relabel, 9, 3)[name]
    assert planned == sum(file.stat().st_size for file in run.path("soft_labels").glob("*.safetensors"))
    loss = coded.manifest.kl_error
    assert loss is not None and set(loss) == {"1", "4", "20"} and all(0 <= value < 0.5 for value in loss.values())
    assert loss["20"] <= loss["1"] + 1e-6


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_labels_are_re_encoded_without_the_teacher(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path, "relabel.epochs=3")
    relabel(run)
    exact = {(e, r): stored_labels(run).logits(e, torch.tensor([r])) for e in range(2) for r in range(9)}
    run.close()
    weights = run.path("teacher", "model.safetensors")
    overrides = ["run.overwrite=true", "relabel.epochs=2", *options("topk", 2, "float16")]
    again = Run(small_recipe(recovered[0], tmp_path, *overrides))
    again.begin()
    content = weights.read_bytes()
    relabel(again)
    log = again.path("log.txt").read_text()
    assert "re-encoded without running the teacher, from float16, 3 epochs" in log and "to topk, k 2, float16" in log
    assert weights.read_bytes() == content and not again.path("soft_labels_before").exists()
    coded = stored_labels(again)
    assert coded.manifest.epochs == 2
    for (epoch, row), logits in exact.items():
        expected = decode(encode(logits, coded.manifest.coding), coded.manifest.coding)
        assert torch.equal(coded.logits(epoch, torch.tensor([row])), expected)
    again.close()
    # Two of three logits do not determine all three, so the teacher is run again.
    back = Run(small_recipe(recovered[0], tmp_path, "run.overwrite=true", "relabel.epochs=2"))
    relabel(back)
    assert "labeled again by the teacher" in back.path("log.txt").read_text()
    for (epoch, row), logits in exact.items():
        assert torch.equal(stored_labels(back).logits(epoch, torch.tensor([row])), logits)
    assert not back.path("soft_labels_before").exists()


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
@pytest.mark.parametrize("field", ["top_k", "indices", "group_size", "pool"])
def test_impossible_labels_are_refused(recovered: tuple[Path, Path], tmp_path: Path, field: str) -> None:
    run = branch(recovered, tmp_path, *options("topk", 2, "float16"))
    relabel(run)
    file = run.path("soft_labels", "manifest.json")
    wrong = {"top_k": 4, "group_size": 1, "pool": "lottery"}
    if field in wrong:
        file.write_text(json.dumps(read_json(file) | {field: wrong[field]}))
        with pytest.raises(UserError, match=f"{field} "):
            read_manifest(file)
        return
    labels = run.path("soft_labels", "epoch-00000.safetensors")
    tensors = load_file(labels)
    content = bytearray(labels.read_bytes())
    at = content.index(tensors["indices"].tobytes())
    content[at : at + 4] = np.array([2, 2], np.int16).tobytes()
    labels.write_bytes(content)
    manifest = read_json(file)
    manifest["files"][0]["sha256"] = sha256(labels)
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="class indices of an image must be classes, in increasing order"):
        stored_labels(run).logits(0, torch.arange(3))


def test_a_pool_is_cycled_or_drawn_as_recorded() -> None:
    assert [pool_epoch("cycle", 3, 7, epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    drawn = [pool_epoch("draw", 3, 7, epoch) for epoch in range(300)]
    assert drawn == [pool_epoch("draw", 3, 7, epoch) for epoch in range(300)], "by the seed alone"
    assert drawn != [pool_epoch("draw", 3, 8, epoch) for epoch in range(300)]
    assert all(80 < drawn.count(stored) < 120 for stored in range(3))
    assert pool_epoch("draw", 0, 7, 5) == 5


def test_an_encoding_names_itself() -> None:
    assert str(encoding_of("topk", 200, 50, "uint8")) == "topk, k 50, uint8"
    assert encoding_of("topk", 5, 50) == Encoding("topk", 5, 5, "float16")
