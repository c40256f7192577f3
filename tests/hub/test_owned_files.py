"""Which files of a repository a push may remove: all that srel_hub ever writes there, and no others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from condensed_runs import condensed_run

from srel_hub.config import Network
from srel_hub.hub.client import Blob, Kind, LocalFile, State
from srel_hub.hub.push_plan import NETWORK_SOURCES, OWN_FILES, Part, part_of
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.architectures import build


ALWAYS = {  # which every push replaces, so that none can be left over
    "dataset": {"README.md", "recipe.yaml", "classes.csv", "metrics.json"},
    "model": {"README.md"},
}


def no_bar(items: Any, *_: object) -> Iterator[Any]:
    return iter(items)


@pytest.mark.long
def test_everything_that_assemble_writes_is_known(finished: Path, tmp_path: Path) -> None:
    """A run with all parts: another teacher labels together with a committee, and there are pictures."""
    trained = classifiers.load(finished / "teacher", torch.device("cpu"))
    for name in ("other", "member"):
        network = build(Network(model="bn_vit_tiny", width=0.25), trained.class_names, trained.size, seed=1)
        classifier = classifiers.Classifier(network, trained.mean, trained.std, trained.class_names, trained.size)
        classifiers.save(classifier, tmp_path / name)
    teachers = [f"relabel.teacher={{path: '{tmp_path}/other'}}", f"relabel.committee=['{tmp_path}/member']"]
    run = condensed_run(finished, tmp_path / "runs", *teachers, "pictures=true")
    folders: dict[Kind, Path] = {"dataset": run.path("dataset"), "model": run.path("teacher_repo")}
    for kind, folder in folders.items():
        names = set(part_of("alice/colors", kind, folder, no_bar).files)
        assert {name for name in names if not OWN_FILES[kind].match(name)} == ALWAYS[kind]
    top = {file.relative_to(folders["model"]).parts[0] for file in folders["model"].rglob("*")}
    assert {"recover", "committee-1", "bn_vit.py"} <= top


def test_the_source_of_every_network_is_known() -> None:
    assert {"bn_vit.py", "convnet.py", "resnet.py"} <= set(NETWORK_SOURCES)
    assert all(OWN_FILES["model"].match(name) for name in NETWORK_SOURCES)


@pytest.mark.parametrize(
    ("kind", "stale"),
    [
        ("dataset", ["assets/curves.png", "data/train-00001-of-00002.parquet", "soft_labels/epoch-00009.safetensors"]),
        (
            "model",
            [
                "bn_vit.py",
                "committee-2/model.safetensors",
                "metrics.json",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "recover/config.json",
            ],
        ),
    ],
)
def test_only_own_files_that_are_no_longer_pushed_are_stale(kind: Kind, stale: list[str]) -> None:
    local = {
        "config.json": LocalFile(Path("config.json"), 1, "a", "b"),
        "data/x.parquet": LocalFile(Path("x"), 1, "", ""),
    }
    foreign = [
        "README.md",
        ".gitattributes",
        "LICENSE",
        "NOTES.md",
        "my_models/resnet.py",
        "logs/data/x",
        "bn_vit.pyc",
    ]
    files = {name: Blob(1, "c") for name in [*local, *stale, *foreign]}
    part = Part("alice/colors", kind, local)
    assert part.stale(State("0" * 40, True, files)) == stale
