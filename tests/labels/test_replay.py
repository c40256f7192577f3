"""What load_condensed yields is bit for bit what the teacher saw, and its labels are the teacher's on that."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import branch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from srel_hub import load_condensed
from srel_hub.core.augment import normalize
from srel_hub.errors import UserError
from srel_hub.evaluate import evaluate
from srel_hub.labels.dataset import Condensed
from srel_hub.labels.labeller import Labeller
from srel_hub.relabel import relabel
from srel_hub.reports.assemble import ensure_assembled
from srel_hub.runs.run import Run
from srel_hub.stages import relabel as stage


ATOL, RTOL = 1e-3, 2.0**-10  # one float16 step

AUGMENTS = st.fixed_dictionaries(
    {
        "crop": st.sampled_from(["none", "resized", "padded"]),
        "padding": st.integers(1, 5),
        "flip": st.booleans(),
        "mix": st.sampled_from(["none", "cutmix", "mixup"]),
        "mix_alpha": st.sampled_from([0.4, 1.0]),
    }
)


def label_and_watch(run: Run) -> list[Tensor]:
    """Relabel, and return everything the teacher saw, one element per epoch, [N, 3, H, W] in row order."""
    views_seen: list[Tensor] = []
    original = stage.label

    def watched(labeller: Labeller, *arguments: object) -> object:
        def watch(views: Tensor) -> Tensor:
            views_seen.append(normalize(views, labeller.table))
            return labeller(views)

        return original(watch, *arguments)  # type: ignore[arg-type]

    stage.label = watched  # type: ignore[assignment]
    try:
        relabel(run)
    finally:
        stage.label = original
    # Relabel ends with the first epoch again, to measure what the encoding loses.
    return list(torch.cat(views_seen).unflatten(0, (run.recipe.relabel.epochs + 1, -1)))[:-1]


def publish_unmeasured(run: Run) -> Path:
    evaluate(run)
    return ensure_assembled(run.recipe, run.marks, run.locked, run.progress)[0]


def read(condensed: Condensed, epoch: int, batch_size: int, workers: int) -> tuple[Tensor, Tensor]:
    loader = DataLoader(condensed[epoch], batch_size=batch_size, num_workers=workers)
    batches = list(loader)
    return tuple(torch.cat([batch[key] for batch in batches]) for key in ("pixel_values", "logits"))  # type: ignore[return-value]


RECIPES = {"augment": AUGMENTS, "seed": st.integers(0, 2**31), "batch": st.integers(1, 9)}


@settings(max_examples=6, deadline=None, derandomize=True)
@given(**RECIPES)
def test_replay_is_what_the_teacher_was_shown(
    recovered: tuple[Path, Path], augment: dict[str, object], seed: int, batch: int
) -> None:
    check_replay(recovered, augment, seed, batch)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=150, deadline=None)
@given(**RECIPES)
def test_replay_over_many_recipes(
    recovered: tuple[Path, Path], augment: dict[str, object], seed: int, batch: int
) -> None:
    check_replay(recovered, augment, seed, batch)


def check_replay(recovered: tuple[Path, Path], augment: dict[str, object], seed: int, batch: int) -> None:
    root = Path(tempfile.mkdtemp())
    overrides = [f"relabel.augment.{key}={str(value).lower()}" for key, value in augment.items()]
    run = branch(recovered, root, *overrides, f"seed={seed}", f"relabel.batch_size={batch}", "source.eval_split=null")
    views_seen = label_and_watch(run)
    condensed = load_condensed(publish_unmeasured(run), epochs=3)
    assert len(condensed) == 3 and condensed.manifest.epochs == 2
    for epoch in range(3):
        stored = epoch % 2
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for size in (1, 7, 9):
                pixel_values, logits = read(condensed, epoch, size, workers=0)
                assert torch.equal(pixel_values, views_seen[stored])
                answers = condensed.teacher()(pixel_values).logits
                torch.testing.assert_close(logits, answers, rtol=RTOL, atol=ATOL)
    shutil.rmtree(root)


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_workers_replay_the_same(recovered: tuple[Path, Path], tmp_path: Path, mix: str) -> None:
    run = branch(recovered, tmp_path, f"relabel.augment.mix={mix}", "source.eval_split=null")
    views_seen = label_and_watch(run)
    condensed = load_condensed(publish_unmeasured(run))
    alone = read(condensed, 1, batch_size=9, workers=0)
    for batch_size in (1, 7, 9):
        together = read(condensed, 1, batch_size, workers=2)
        assert torch.equal(together[0], views_seen[1]) and torch.equal(together[1], alone[1])


def test_an_epochs_file_is_opened_only_when_it_is_asked_for(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null")
    relabel(run)
    dataset = publish_unmeasured(run)
    (dataset / "soft_labels" / "epoch-00001.safetensors").unlink()
    condensed = load_condensed(dataset)
    assert condensed[0][0]["logits"].shape == (3,)
    with pytest.raises(Exception, match=r"epoch-00001\.safetensors is missing"):
        condensed[1]


def test_a_teacher_that_did_not_label_is_refused(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null")
    relabel(run)
    condensed = load_condensed(publish_unmeasured(run))
    weights = run.path("teacher_repo", "model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(Exception, match="not the teacher that labeled"):
        condensed.teacher()


def test_what_is_no_condensed_dataset_is_refused(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null")
    relabel(run)
    dataset = publish_unmeasured(run)
    with pytest.raises(UserError, match="is a run; the dataset in it is"):
        load_condensed(run.folder)
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        load_condensed("nowhere")
    with pytest.raises(
        UserError, match=r"epochs=0: must be a whole number of at least 1, the epochs to train \(stored: 2\)"
    ):
        load_condensed(dataset, epochs=0)
    labels = dataset / "soft_labels" / "epoch-00000.safetensors"
    content = labels.read_bytes()
    labels.unlink()
    labels.write_bytes(content[:-10])
    with pytest.raises(UserError, match=f"{len(content) - 10} bytes, but the manifest says {len(content)}"):
        load_condensed(dataset)[0]


def test_labels_of_other_images_are_refused(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null")
    relabel(run)
    dataset = publish_unmeasured(run)
    manifest = dataset / "soft_labels" / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["num_images"] = 8
    for file in fields["files"]:
        file["rows"] = [0, 8]
    manifest.write_text(json.dumps(fields))
    with pytest.raises(Exception, match="labels are for 8 images of 3 classes"):
        load_condensed(dataset)
