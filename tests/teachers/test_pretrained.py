"""Pretrained teachers: every family gets the input of its own processor, and class names must match."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, make_source, write_recipe
from families import WITH_BATCHNORM, WITHOUT_BATCHNORM, save_family
from PIL import Image
from reference_resnet import random_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from srel_hub import load_condensed
from srel_hub.condense import condense
from srel_hub.config import Pretrained, load_recipe
from srel_hub.core.augment import normalize
from srel_hub.data import class_names
from srel_hub.errors import UserError
from srel_hub.runs.run import Run
from srel_hub.stages.preflight.data_checks import agree, mean_recall
from srel_hub.storage.decode import Frame, fit
from srel_hub.storage.files import read_json
from srel_hub.teachers.classifier import load, save
from srel_hub.teachers.pretrained import load_pretrained, require_batchnorm, require_usable_classifier, with_size


CPU = torch.device("cpu")
NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.mark.parametrize("name", WITH_BATCHNORM | WITHOUT_BATCHNORM)
@torch.no_grad()
def test_a_familys_classifier_sees_what_its_own_processor_shows_it(tmp_path: Path, name: str) -> None:
    folder = save_family(name, tmp_path / name)
    classifier, _ = load_pretrained(Pretrained(path=str(folder)), "squeeze.pretrained")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*classifier.size, 3), dtype=np.uint8))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    options = {} if name in ("resnet", "regnet", "convnext") else {"do_center_crop": False}
    own = processor(picture, return_tensors="pt", do_resize=False, **options)["pixel_values"]
    expected = AutoModelForImageClassification.from_pretrained(folder).eval()(own).logits
    stored = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    answer = classifier.model(normalize(stored, classifier.table(CPU))).logits
    assert expected.std() > 0
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "hgnet_v2"])
def test_a_large_picture_is_framed_as_the_processor_frames_it(tmp_path: Path, name: str) -> None:
    folder = save_family(name, tmp_path / name)
    classifier, _ = load_pretrained(Pretrained(path=str(folder)), "squeeze.pretrained")
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    own = processor(coarse, return_tensors="pt")["pixel_values"]
    ours = normalize(
        torch.from_numpy(np.array(fit(coarse, classifier.frame))).permute(2, 0, 1)[None], classifier.table(CPU)
    )
    assert (own - ours).abs().mean() < 0.01 * own.std()


@pytest.mark.parametrize("name", WITH_BATCHNORM)
def test_a_saved_teacher_is_the_same_and_needs_no_other_package(tmp_path: Path, name: str) -> None:
    classifier, _ = load_pretrained(Pretrained(path=str(save_family(name, tmp_path / "own", NAMES))), "x")
    save(classifier, tmp_path / "saved")
    again = load(tmp_path / "saved", CPU)
    x = torch.randn(3, 3, *classifier.size)
    assert torch.equal(again.model(x).logits, classifier.model(x).logits)
    assert (again.mean, again.std, again.frame) == (classifier.mean, classifier.std, classifier.frame)
    assert again.class_names == tuple(NAMES)
    assert "auto_map" not in json.loads((tmp_path / "saved/config.json").read_text())


@pytest.mark.parametrize(("name", "layers"), [("convnext", "LayerNorm"), ("vit", "LayerNorm"), ("bit", "GroupNorm")])
def test_a_network_without_batchnorm_is_refused_by_name(tmp_path: Path, name: str, layers: str) -> None:
    classifier, _ = load_pretrained(Pretrained(path=str(save_family(name, tmp_path))), "squeeze.pretrained")
    with pytest.raises(UserError, match=rf"{type(classifier.model).__name__} has no BatchNorm2d layer .*{layers}"):
        require_batchnorm(classifier.model, "squeeze.pretrained")


def test_timms_settings_are_read_and_a_bare_file_is_taken_as_torchvisions(tmp_path: Path) -> None:
    state = random_state([1, 1, 1, 1], 2, base=8)
    save_file(state, tmp_path / "model.safetensors")
    bare, origin = load_pretrained(Pretrained(path=str(tmp_path / "model.safetensors")), "x")
    assert bare.frame == Frame((224, 224), 256) and bare.mean == (0.485, 0.456, 0.406)
    assert origin.path == "model.safetensors" and list(origin.sha256) == ["model.safetensors"]
    timm_config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 64, 64], "crop_pct": 0.8}
    settings = {
        "architecture": "resnet10",
        "num_classes": 7,
        "label_names": list("abcdefg"),
        "pretrained_cfg": timm_config,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    timm, _ = load_pretrained(Pretrained(path=str(tmp_path)), "x")
    assert timm.frame == Frame((64, 64), 80) and timm.mean == (0.5, 0.4, 0.3) and timm.std == (0.2, 0.2, 0.1)
    assert timm.class_names == tuple("abcdefg")
    assert with_size(timm, 32).frame == Frame((32, 32), 40)


def settings(file_name: str = "config.json", **changed: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / file_name
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


def processing(**changed: Any) -> Callable[[Path], object]:
    return settings("preprocessor_config.json", **changed)


def weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


CODE = {"auto_map": {"AutoConfig": "x.Y", "AutoModelForImageClassification": "x.Z"}, "model_type": "custom"}
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (cut, "Error while deserializing header"),
    "an impossible setting": (settings(layer_type="nonsense"), "layer_type=nonsense is not one of basic,bottleneck"),
    "another shape": (settings(hidden_sizes=[8, 8, 16, 24]), r"classifier.1.weight with the shape \[5, 16\], but"),
    "settings that are no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "its config.json is not a JSON object",
    ),
    "no settings": (
        lambda f: (f / "config.json").unlink(),
        "neither a transformers model",
    ),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "is unknown: no preprocessor_config.json$"),
    "a broken processor": (lambda f: (f / "preprocessor_config.json").write_text("{"), "is not a valid JSON"),
    "code of its own": (settings(**CODE), "unknown architecture 'custom'"),
    "one mean for three channels": (processing(image_mean=[0.5]), "mean must have 3 elements"),
    "no deviation": (processing(image_std=[0, 0, 0]), "each must be positive and finite"),
    "no head": (weights(lambda t: t.pop("classifier.1.weight")), "lack classifier.1.weight; choose a trained"),
    "not numbers": (
        weights(lambda t: t["classifier.1.bias"].fill_(torch.nan)),
        "classifier.1.bias contain NaN or infinity",
    ),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pickled weights of a folder are never loaded",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_teacher_is_refused_by_what_is_wrong(tmp_path: Path, case: str) -> None:
    folder = save_family("resnet", tmp_path, NAMES)
    change, message = DAMAGED[case]
    change(folder)
    with pytest.raises(UserError, match=message):
        classifier, _ = load_pretrained(Pretrained(path=str(folder)), "squeeze.pretrained")
        require_usable_classifier(classifier, "squeeze.pretrained")


def test_weights_in_bfloat16_are_used_in_float32(tmp_path: Path) -> None:
    folder = save_family("resnet", tmp_path, NAMES)
    weights(lambda t: t.update({n: x.bfloat16() for n, x in t.items() if x.is_floating_point()}))(folder)
    classifier, _ = load_pretrained(Pretrained(path=str(folder)), "squeeze.pretrained")
    assert {parameter.dtype for parameter in classifier.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("own", "names", "agreed", "unproven"),
    [
        (("a", "b"), ("a", "b"), ("a", "b"), False),
        (("Ant, Formica", "BEE"), ("ant", "bee, Apis"), ("ant", "bee, Apis"), False),
        (("LABEL_0", "LABEL_1"), ("a", "b"), ("a", "b"), True),
        (("0", "1"), ("a", "b"), ("a", "b"), True),
        (("a", "b"), ("0", "1"), ("a", "b"), True),
        (("a", "b"), None, ("a", "b"), False),
        (("crane", "b", "crane"), None, ("crane (0)", "b", "crane (2)"), False),
        (("crane", "b", "crane, machine"), ("crane", "b", "crane2"), ("crane", "b", "crane2"), False),
    ],
)
def test_class_names_that_agree(
    own: tuple[str, ...], names: tuple[str, ...] | None, agreed: tuple[str, ...], unproven: bool
) -> None:
    assert agree(own, names, "squeeze.pretrained=x", trust=False) == (agreed, unproven)


@pytest.mark.parametrize(
    ("own", "names", "message"),
    [
        (
            tuple("dabc"),
            tuple("abcd"),
            "the same class names as the dataset, but in a different order: class 0 is 'd', but 'a' in the dataset; "
            "class 1 is 'a', but 'b' in the dataset; class 2 is 'b', but 'c' in the dataset. Labels would",
        ),
        (("x", "b"), ("a", "b"), r"those of the dataset \(1 of 2\): class 0 is 'x', but 'a' in"),
        (("a", "b", "c"), ("a", "b"), "has 3 classes, but the dataset has 2"),
        (("class1", "class2"), ("class2", "class1"), "in a different order"),
        (("LABEL_0", "LABEL_1"), None, "set squeeze.pretrained.class_names"),
    ],
)
def test_class_names_that_contradict_are_refused_with_the_first_three_differences(
    own: tuple[str, ...], names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        agree(own, names, "squeeze.pretrained=x", trust=False)


def test_trust_overrules_order_but_not_count() -> None:
    assert agree(("b", "a"), ("a", "b"), "squeeze.pretrained=x", trust=True) == (("a", "b"), False)
    with pytest.raises(UserError, match="has 3 classes, but the dataset has 2"):
        agree(("a", "b", "c"), ("a", "b"), "squeeze.pretrained=x", trust=True)


def test_imagenets_names_agree_with_a_dataset_that_numbers_its_second_crane() -> None:
    pretrained = load_recipe("in1k_ipc50").squeeze.pretrained
    assert pretrained is not None and pretrained.class_names is not None
    names = list(pretrained.class_names)
    assert len(names) == len(set(names)) == 1000
    names[517], names[639] = "crane2", "maillot, tank suit"
    assert class_names.differing_indices(pretrained.class_names, names) == []
    names[0], names[1] = names[1], names[0]
    assert class_names.differing_indices(pretrained.class_names, names) == [0, 1]


def test_the_score_of_a_constant_answer_is_chance_however_uneven_the_classes() -> None:
    labels = torch.tensor([0] * 96 + [1, 2, 3, 3])
    assert mean_recall(torch.zeros(100, dtype=torch.int64), labels) == 0.25
    assert mean_recall(labels, labels) == 1
    assert mean_recall(torch.tensor([5, 1]), torch.tensor([0, 1])) == 0.5


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    return write_recipe(folder / "five.yaml", make_source(folder / "source", (32, 32), NAMES, per_class=4), ipc=2)


@pytest.mark.parametrize(
    "name",
    [
        "regnet",
        "efficientnet",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("mobilenet_v2", "hgnet_v2", "mobilevit")),
    ],
)
def test_a_pretrained_family_recovers_and_relabels(tmp_path: Path, five: Path, name: str) -> None:
    folder = save_family(name, tmp_path / name, NAMES)
    overrides = [*SMALL, f"run.root={tmp_path}", f"squeeze.pretrained={folder}", "source.eval_split=null"]
    run = Run(load_recipe(five, overrides))
    condense(run)
    condensed = load_condensed(run.path("dataset"))
    assert condensed.pixels.shape == (10, 3, 32, 32) and condensed.manifest.class_names == tuple(NAMES)
    item = condensed[1][3]
    torch.testing.assert_close(
        condensed.teacher()(item["pixel_values"][None]).logits[0], item["logits"], rtol=2**-9, atol=1e-3
    )
    metrics = read_json(run.path("teacher_repo", "metrics.json"))
    assert metrics["pretrained"]["path"] == name and metrics["train_images"] is None
    assert str(tmp_path) not in "".join(file.read_text() for file in run.path("dataset").glob("*.*"))


def test_another_teacher_may_label(tmp_path: Path, five: Path) -> None:
    """A network without BatchNorm may: only recover needs the statistics."""
    overrides = [f"relabel.teacher={save_family('convnext', tmp_path / 'convnext', NAMES)}", "evaluate.seeds=1"]
    run = Run(load_recipe(five, [*SMALL, f"run.root={tmp_path}", *overrides]))
    condense(run)
    condensed = load_condensed(run.path("dataset"))
    assert type(condensed.teacher()).__name__ == "ConvNextForImageClassification"
    item = condensed[0][1]
    torch.testing.assert_close(
        condensed.teacher()(item["pixel_values"][None]).logits[0], item["logits"], rtol=2**-9, atol=1e-3
    )
    recovered_from = load(run.path("teacher_repo", "recover"), CPU)
    assert type(recovered_from.model).__name__ == "SrelConvNetForImageClassification"
    assert (
        "They were recovered from another network, the SrelConvNetForImageClassification"
        in run.path("teacher_repo", "README.md").read_text()
    )
    card = run.path("dataset", "README.md").read_text()
    assert "ConvNextForImageClassification from `convnext`" in card and "convnet x 0.1" in card
