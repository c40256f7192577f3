"""Exported datasets have the layouts that other evaluation tools document."""

from pathlib import Path

import pytest
import torch
import yaml
from condensed_runs import condensed_run
from datasets import load_dataset

from srel_hub.commands.program import main
from srel_hub.config import Network
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher


def test_the_layout_of_rethinkdc_is_a_dataset_of_image_and_label(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "exported" / "one"
    assert main(["export", str(finished / "dataset"), "rethinkdc", str(target)]) == 0
    loaded = load_dataset(str(target))
    assert list(loaded) == ["train"] and loaded["train"].column_names == ["image", "label"]
    assert len(loaded["train"]) == 9 and not (target / "soft_labels").exists()
    assert main(["export", str(finished / "dataset"), "rethinkdc", str(target)]) == 2, "nothing is overwritten"


def test_what_ddranking_does_not_take_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(finished / "dataset"), "ddranking", str(tmp_path / "no")]
    assert main(["export", *arguments]) == 2
    assert "--dataset is missing; set it to the real dataset that was condensed: CIFAR10" in capsys.readouterr().err
    assert main(["export", *arguments, "--dataset", "CIFAR10"]) == 2
    assert "the teacher is a SrelConvNetForImageClassification; only ResNet" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_images_teacher_and_configuration_for_ddranking(finished: Path, tmp_path: Path) -> None:
    resnet = tmp_path / "resnet"
    known = teacher.load(finished / "teacher", torch.device("cpu"))
    built = networks.build(Network(model="resnet18", width=0.1), known.class_names, known.size, seed=0)
    teacher.save(teacher.Classifier(built, known.mean, known.std, known.class_names, known.size), resnet)
    run = condensed_run(finished, tmp_path, f"relabel.teacher={resnet}", "evaluate.baselines=false")
    target = tmp_path / "exported"
    assert main(["export", str(run.path("dataset")), "ddranking", str(target), "--dataset", "CIFAR10"]) == 0
    assert sorted(folder.name for folder in (target / "images").iterdir()) == ["00000", "00001", "00002"]
    assert all(len(list(folder.glob("*.png"))) == 3 for folder in (target / "images").iterdir())
    weights = torch.load(target / "teacher_models/CIFAR10/ResNet-18-BN/ckpt_best.pt", weights_only=True)
    torch.testing.assert_close(weights["fc.weight"], built.classifier[1].weight.detach())
    config = yaml.safe_load((target / "config.yaml").read_text())
    assert (config["dataset"], config["ipc"], config["im_size"], config["soft_label_mode"]) == (
        "CIFAR10",
        3,
        [8, 8],
        "M",
    )
