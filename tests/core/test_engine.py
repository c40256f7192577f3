"""Precision, epochs that trainings share, and labels that are written in the background."""

import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import branch, refused, small_recipe
from torch import Tensor

from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.config import Augment, load_recipe
from srel_hub.core.engine import FLOAT32, Engine, best_precision
from srel_hub.errors import UserError
from srel_hub.labels.epochs import Epoch, KeptEpoch, sampled_epoch
from srel_hub.labels.labeller import make_labeller
from srel_hub.relabel import relabel
from srel_hub.runs import resume
from srel_hub.runs.decoded_images import condensed_images
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate import training_sets
from srel_hub.stages.relabel import BackgroundWriter
from srel_hub.storage.files import read_json
from srel_hub.teachers import classifier


def test_precision_is_fixed_when_a_run_begins(
    recovered: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = recovered
    monkeypatch.setattr(resume, "best_precision", lambda: "bfloat16")
    run = Run(small_recipe(file, tmp_path, "precision=auto"))
    run.begin()
    run.path("units", "squeeze").mkdir()
    run.path("units", "squeeze", "teacher.json").write_text("{}")
    run.close()
    monkeypatch.setattr(resume, "best_precision", lambda: "float32")
    again = Run(small_recipe(file, tmp_path, "precision=auto"))
    assert again.recipe.precision == again.engine.precision == "bfloat16"
    with pytest.raises(UserError, match="precision: 'bfloat16' in the run, 'float32' requested"):
        Run(small_recipe(file, tmp_path, "precision=float32"))


def test_an_unknown_precision_is_refused(
    recovered: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, str(recovered[0]), "precision=float16", f"run.root={tmp_path}")
    assert "precision" in message and "must be one of float32, bfloat16, auto" in message


def test_bfloat16_from_images_to_verified_labels(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    file, _ = recovered
    run = Run(small_recipe(file, tmp_path, "precision=bfloat16", "squeeze.epochs=8", "recover.iterations=60"))
    condense(run)
    run.close()
    manifest = read_json(run.path("soft_labels", "manifest.json"))
    assert manifest["precision"] == "bfloat16"
    assert "computed in bfloat16" in run.path("dataset", "README.md").read_text()
    assert load_recipe(run.path("dataset", "recipe.yaml")).precision == "bfloat16"
    main(["verify", str(run.path("dataset"))])


def test_networks_return_float32(recovered: tuple[Path, Path]) -> None:
    loaded = classifier.load(recovered[1] / "teacher", torch.device("cpu"))
    x = torch.randn(5, 3, *loaded.size)
    plain = loaded.model(x).logits
    for engine, error in ((FLOAT32, 1e-5), (Engine("bfloat16"), 0.05)):
        answer = engine.network(loaded.model)(x)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, plain, rtol=error, atol=error * float(plain.detach().abs().max()))
    unpickled = pickle.loads(pickle.dumps(FLOAT32.network(loaded.model)))  # as to a DataLoader's worker
    assert torch.equal(unpickled(x), FLOAT32.network(loaded.model)(x))


def test_the_best_precision_is_one_that_the_hardware_has() -> None:
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    if torch.cuda.is_available() or not flags:
        pytest.skip("not a Linux machine without a GPU")
    assert best_precision() == ("bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32")


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_a_kept_epoch_is_the_epoch(recovered: tuple[Path, Path], tmp_path: Path, mix: str) -> None:
    run = branch(recovered, tmp_path)
    run.begin()
    images = condensed_images(run)
    run.close()
    loaded = classifier.load(run.path("teacher"), torch.device("cpu"))
    labeller = make_labeller([loaded], FLOAT32, torch.device("cpu"), None)
    epoch = sampled_epoch(images.pixels, labeller, Augment(mix=mix), seed=3, epoch=1)  # type: ignore[arg-type]
    kept = KeptEpoch(epoch)
    for chosen in torch.randperm(len(epoch)).split(4):
        x, logits = epoch.batch(chosen)
        kept_x, kept_logits = kept.batch(chosen)
        assert torch.equal(x, kept_x)
        torch.testing.assert_close(kept_logits, logits)


def test_epochs_are_made_once_for_trainings_that_share_them(recovered: tuple[Path, Path]) -> None:
    loaded = classifier.load(recovered[1] / "teacher", torch.device("cpu"))
    pixels = torch.zeros(4, 3, *loaded.size, dtype=torch.uint8)
    drawn: list[tuple[object, int]] = []

    def use(shared: training_sets.SharedEpochs, of: str | int, index: int) -> None:
        def make() -> Epoch:
            drawn.append((of, index))
            labeller = make_labeller([loaded], FLOAT32, torch.device("cpu"), None)
            return sampled_epoch(pixels, labeller, Augment(), 0, index)

        shared.epoch(of, index, make)

    shared = training_sets.SharedEpochs(keeps=True)
    for seed in (0, 1):
        for of in ("condensed", seed, seed):
            for index in range(2):
                use(shared, of, index)
    assert drawn == [("condensed", 0), ("condensed", 1), (0, 0), (0, 1), (1, 0), (1, 1)]
    drawn.clear()
    without = training_sets.SharedEpochs(keeps=False)
    for _ in range(2):
        use(without, "condensed", 0)
    assert len(drawn) == 2


def test_kept_bytes_count_images_and_logits() -> None:
    assert training_sets.kept_bytes(5, 3, 9, 3, (8, 9), real=True) == (3 + 5) * 9 * (3 * 8 * 9 + 4 * 3)
    assert training_sets.kept_bytes(5, 0, 9, 3, (8, 9), real=False) == 5 * 9 * (3 * 8 * 9 + 4 * 3)


def test_writing_behind_keeps_the_order_and_raises_errors() -> None:
    written: list[float] = []

    def slow(_: Tensor, value: Tensor) -> None:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.001)
        if value == 4:
            raise UserError("no more")
        written.append(float(value))

    with BackgroundWriter(slow) as writer:
        for index in range(4):
            writer.put(torch.tensor([0]), torch.tensor(index))
    assert written == [0, 1, 2, 3], "all were written when the block was left"
    with pytest.raises(UserError, match="no more"), BackgroundWriter(slow) as writer:
        writer.put(torch.tensor([0]), torch.tensor(4))


def test_a_label_that_is_out_of_range_stops_relabel(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path)
    loaded = classifier.load(run.path("teacher"), torch.device("cpu"))
    loaded.model.classifier.bias.data[0] = 1e6  # type: ignore[union-attr]
    classifier.save(loaded, run.path("teacher"))
    with pytest.raises(UserError, match="image 0"):
        relabel(run)
    assert not list(run.path("soft_labels").glob("*.safetensors"))
    run.close()
