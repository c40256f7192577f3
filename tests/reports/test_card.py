"""Cards of a fixed run equal the golden files, take their numbers from artifacts, and are valid to the Hub.

To rewrite the golden files, run this and read them before you commit:

    SREL_GOLDEN=write python -m pytest tests/reports/test_card.py
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard

from srel_hub.config import Network, load_recipe
from srel_hub.reports.assemble import assemble_dataset
from srel_hub.reports.card import dataset_card, teacher_card
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import read_json, write_json
from srel_hub.teachers import architectures as networks


GOLDEN = Path(__file__).parent.parent / "golden"
REPO = "my-name/srel-digits-ipc10"
SHORT = ["relabel.epochs=2", "squeeze.epochs=20", "recover.iterations=300", "evaluate.epochs=30", "evaluate.seeds=2"]
VARIANTS = {
    "local": [],
    "published": [f"publish.repo_id={REPO}", "publish.private=false", "publish.tag=v1.1"],
}


def cards(folder: Path, *overrides: str) -> dict[str, str]:
    """Return both cards of the fixed run; write the run and the dataset's tree to `folder`."""
    recipe = load_recipe("quickstart", [*SHORT, *overrides])
    run = folder / "run"
    shutil.copytree(GOLDEN / "run", run)
    names = [str(digit) for digit in range(10)]
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (100, 3, 8, 8), generator=draw, dtype=torch.uint8)
    (run / "images").mkdir()
    write_parquet(run / "images" / "all.parquet", [encode_png(x) for x in pixels], list(range(10)) * 10, names)
    network = networks.build(Network(model="convnet"), names, (8, 8), seed=0)
    network.save_pretrained(folder / "network")
    shutil.copy(folder / "network" / "model.safetensors", run / "teacher")
    for epoch in range(2):
        (run / "soft_labels" / f"epoch-{epoch:05d}.safetensors").write_bytes(bytes(3676))
    assemble_dataset(run, recipe, folder / "dataset", run / "soft_labels")
    return {"dataset": (folder / "dataset" / "README.md").read_text(), "teacher": teacher_card(run, recipe)}


def steady(card: str) -> str:
    """Replace the sizes of files, which depend on the versions of pyarrow and torch."""
    card = re.sub(r" (text|dataset_info)=[0-9a-f]+", r" \1=N", card)  # digests of what contains sizes
    card = re.sub(r"\| \d+ \| [\d.]+ KiB \|", "| N | N |", card)
    return re.sub(r"(num_bytes|download_size|dataset_size): \d+", r"\1: N", card)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cards_equal_the_golden_files(tmp_path: Path, variant: str) -> None:
    for name, card in cards(tmp_path, *VARIANTS[variant]).items():
        file = GOLDEN / f"{name}_{variant}.md"
        if os.environ.get("SREL_GOLDEN") == "write":
            file.write_text(steady(card))
        assert steady(card) == file.read_text(), file


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_front_matter_is_valid_to_the_classes_of_the_hub(tmp_path: Path, variant: str) -> None:
    rendered = cards(tmp_path, *VARIANTS[variant])
    dataset, model = DatasetCard(rendered["dataset"]), ModelCard(rendered["teacher"])
    dataset.validate(repo_type="dataset")
    model.validate(repo_type="model")
    assert dataset.data.to_dict()["license"] == model.data.license == "cc-by-4.0"
    assert model.data.datasets is None and model.data.base_model is None  # digits are not on the Hub
    assert model.data.eval_results[0].metric_value == read_json(GOLDEN / "run/teacher/metrics.json")["top1"]


def test_the_teachers_metadata_names_its_dataset_and_its_base_model(tmp_path: Path) -> None:
    local, run = cards(tmp_path / "local"), tmp_path / "local" / "run"
    assert "base_model" not in local["teacher"]
    metrics = read_json(run / "teacher" / "metrics.json")
    for revision, expected in (("a" * 40, "timm/resnet18"), (None, None)):  # a local path has no commit
        metrics["pretrained"] = {"path": "timm/resnet18", "revision": revision, "sha256": {}}
        write_json(run / "teacher" / "metrics.json", metrics)
        for path, datasets in (("org/real", ["org/real"]), ("/data/real", None), ("a/b/c", None)):
            recipe = load_recipe("quickstart", [*SHORT, f"source={{path: {path}}}", f"publish.repo_id={REPO}"])
            data = ModelCard(teacher_card(run, recipe)).data
            assert (data.base_model, data.datasets) == (expected, datasets)


def test_classes_without_eval_images_are_named(tmp_path: Path) -> None:
    assert "Not scored" not in cards(tmp_path)["dataset"]
    run = tmp_path / "run"
    metrics = read_json(run / "teacher" / "metrics.json") | {"classes_without_eval_images": [3, 7]}
    write_json(run / "teacher" / "metrics.json", metrics)
    recipe = load_recipe("quickstart", SHORT)
    text = dataset_card(run, recipe, tmp_path / "dataset")
    assert "**Not scored:** 2 of 10 classes have no images in the eval split" in text and "about them: 3, 7." in text
    assert "No eval images: 3, 7." in teacher_card(run, recipe)


def test_each_card_links_the_other(tmp_path: Path) -> None:
    rendered = cards(tmp_path, *VARIANTS["published"])
    assert f"[{REPO}-teacher](https://huggingface.co/{REPO}-teacher)" in rendered["dataset"]
    assert f"[{REPO}](https://huggingface.co/datasets/{REPO})" in rendered["teacher"]


def test_sizes_on_the_card_are_those_of_the_files(tmp_path: Path) -> None:
    card = cards(tmp_path)["dataset"]
    for part in ("dataset/data", "dataset/soft_labels"):
        assert f"| {sum(file.stat().st_size for file in (tmp_path / part).iterdir())} |" in card
    assert f"| {(tmp_path / 'run/teacher/model.safetensors').stat().st_size} |" in card


def test_a_card_without_a_tag_cites_no_version(tmp_path: Path) -> None:
    card = cards(tmp_path, f"publish.repo_id={REPO}", "publish.tag=null")["dataset"]
    assert 'revision="' not in card and "note = {" not in card and f"datasets/{REPO}}}}}\n}}" in card
