"""Files of weights and settings that people made: used as they mean, or refused in one line, and never run as code."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_family
from reference_resnet import random_state
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srel_hub.config import Pretrained
from srel_hub.errors import UserError
from srel_hub.storage.decode import Frame
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.foreign_settings import labeled_settings, timm_names, timm_preprocessing
from srel_hub.teachers.pretrained import load_pretrained, require_usable_classifier
from srel_hub.teachers.weight_files import choose_files


NAMES = ["ant", "bee", "cat"]


def tiny(seed: int = 0) -> dict[str, Tensor]:
    """Weights of a small ResNet with the names of torchvision."""
    state = random_state([1, 1, 1, 1], 2, classes=3, base=8)
    return {name: tensor + seed if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def load(path: Path, **fields: Any) -> Classifier:
    classifier, _ = load_pretrained(Pretrained(path=str(path), **fields), "squeeze.pretrained")
    require_usable_classifier(classifier, "squeeze.pretrained")
    return classifier


def refused(path: Path, **fields: Any) -> str:
    """The message of a refusal, which is one line."""
    with pytest.raises(UserError) as caught:
        load(path, **fields)
    said = str(caught.value)
    assert said.startswith("squeeze.pretrained") and "\n" not in said, said
    return said


def head(classifier: Classifier) -> Tensor:
    return classifier.model.state_dict()["classifier.1.bias"]


# Class names in a config of transformers


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"id2label": {"0": "ant", "1": "bee", "2": "cat"}}, NAMES),
        ({"id2label": {"2": "cat", "0": "ant", "1": "bee"}}, NAMES),
        ({"id2label": NAMES}, NAMES),
        ({"id2label": NAMES, "label2id": None}, NAMES),
        ({"id2label": NAMES, "label2id": {"ant": 7}}, NAMES),
        ({"id2label": {"0": 5, "1": 6, "2": 7}}, ["5", "6", "7"]),
        ({"id2label": {"0": None, "1": None, "2": None}}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": [None, None, None]}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": None, "label2id": None, "num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {}, "label2id": {}, "num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {" 0": "ant", "1 ": "bee", "2": "cat"}}, NAMES),
    ],
)
def test_class_names_that_can_be_used(tmp_path: Path, changed: dict[str, Any], names: list[str]) -> None:
    folder = save_family("resnet", tmp_path, NAMES)
    change(folder / "config.json", changed)
    assert list(load(folder).class_names) == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"1": "ant", "2": "bee", "3": "cat"}, "id2label begins at 1, but must name the classes 0 to 2"),
        ({"0": "ant", "1": "bee", "3": "cat"}, "id2label has no class 2"),
        ({"0": "ant", "one": "bee", "2": "cat"}, "the index 'one', which is not a number"),
        ({"-1": "ant", "0": "bee", "1": "cat"}, "id2label .*must name the classes 0 to 2"),
        ({"0": "ant", "00": "bee", "2": "cat"}, "must name the classes"),
        ({"0": "ant", "1": None, "2": "cat"}, "names class 1 null, which is not text"),
        ({"0": "ant", "1": "  ", "2": "cat"}, "which is not text"),
        ({"0": "ant", "1": True, "2": "cat"}, "names class 1 true, which is not text"),
        ({"0": "ant", "1": ["bee"], "2": "cat"}, "which is not text"),
        ({"0": "ant", "1": 1.5, "2": "cat"}, "names class 1 1.5, which is not text"),
        ("ant bee cat", "id2label='ant bee cat', which does not name classes"),
        (3, "which does not name classes"),
        (True, "which does not name classes"),
        ([["ant"], ["bee"], ["cat"]], "which is not text"),
    ],
)
def test_class_names_that_cannot_be_used_need_those_of_the_recipe(tmp_path: Path, labels: Any, message: str) -> None:
    folder = save_family("resnet", tmp_path, NAMES)
    change(folder / "config.json", {"id2label": labels})
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and "squeeze.pretrained.class_names" in str(caught.value)
    assert list(load(folder, class_names=tuple(NAMES)).class_names) == NAMES


def change(file: Path, changed: dict[str, Any]) -> None:
    settings = {name: value for name, value in json.loads(file.read_text()).items() if name != "label2id"}
    file.write_text(json.dumps(settings | changed))


@pytest.mark.parametrize(
    ("count", "message"),
    [(4, "num_labels=4, but id2label names 3 classes"), (0, "num_labels=0"), ("3", "num_labels='3'"), (True, "=True")],
)
def test_a_number_of_classes_that_contradicts_the_names_is_refused(count: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labeled_settings({"id2label": dict(enumerate(NAMES)), "num_labels": count}, None, "squeeze.pretrained=x")


# The config of timm


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"mean": None, "std": None},
        {"input_size": None, "crop_pct": None, "interpolation": None},
        {"interpolation": "random"},
        {"interpolation": ["bilinear"]},
        {"pretrained_cfg": None},
        {"pretrained_cfg": {}},
        {"pretrained_cfg": {"mean": None, "input_size": None}},
    ],
)
def test_fields_of_timm_that_are_missing_or_null_are_imagenets(changed: dict[str, Any]) -> None:
    frame, mean, std = timm_preprocessing(changed, None, "x")
    assert (frame, mean, std) == (Frame((224, 224), 256), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": 0.5}, "mean in its config.json is 0.5; it must have three numbers"),
        ({"mean": [0.5]}, "mean .* three numbers"),
        ({"mean": [0.5, None, 0.5]}, "mean .* three numbers"),
        ({"std": [0.2, 0.2, 0]}, "three numbers greater than 0"),
        ({"std": [0.2, 0.2, float("inf")]}, "three numbers greater than 0"),
        ({"std": "0.2"}, "std in its config.json is 0.2"),
        ({"input_size": 224}, "input_size .* three numbers"),
        ({"input_size": [1, 28, 28]}, r"must be \[3, height, width\]"),
        ({"input_size": [3, 22.5, 22.5]}, r"must be \[3, height, width\]"),
        ({"input_size": [3, 64, 64], "crop_pct": 0}, r"crop_pct in its config.json is 0; it must be in \(0, 1\]"),
        ({"input_size": [3, 64, 64], "crop_pct": "0.9"}, "crop_pct"),
        ({"pretrained_cfg": ["mean"]}, "pretrained_cfg in its config.json must be a mapping"),
        ({"pretrained_cfg": "resnet"}, "pretrained_cfg in its config.json must be a mapping"),
    ],
)
def test_fields_of_timm_that_cannot_be_used_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm_preprocessing(changed, None, "x")


@pytest.mark.parametrize("names", [None, []])
def test_timm_may_leave_the_class_names_out(names: Any) -> None:
    assert timm_names({"label_names": names}, 2, "x") == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("names", ["ant", {"0": "ant"}, ["ant", None], ["ant", ""], ["ant", 3], ["ant"], 2])
def test_class_names_of_timm_that_cannot_be_used_are_refused(names: Any) -> None:
    with pytest.raises(UserError, match=r"label_names|names 1 classes"):
        timm_names({"label_names": names}, 2, "x")


# Which file


def test_of_several_files_only_the_requested_one_is_read(tmp_path: Path) -> None:
    """An averaged copy beside the weights never replaces or completes them."""
    save_file(tiny(0), tmp_path / "model.safetensors")
    save_file(tiny(1), tmp_path / "model_ema.safetensors")
    first, second = load(tmp_path), load(tmp_path / "model_ema.safetensors")
    assert torch.equal(head(first), tiny(0)["fc.bias"]) and torch.equal(head(second), tiny(1)["fc.bias"])
    (tmp_path / "model.safetensors").rename(tmp_path / "last.safetensors")
    assert "several files of weights (last.safetensors, model_ema.safetensors); name one" in refused(tmp_path)


def test_a_single_file_of_any_name_is_the_folders(tmp_path: Path) -> None:
    save_file(tiny(), tmp_path / "epoch_90.safetensors")
    assert load(tmp_path).class_names == ("LABEL_0", "LABEL_1", "LABEL_2")


def shard(folder: Path) -> None:
    state = tiny()
    parts = {"a.safetensors": list(state)[:20], "b.safetensors": list(state)[20:]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_all_parts_of_a_sharded_file_are_read(tmp_path: Path) -> None:
    shard(tmp_path)
    save_file(tiny(1), tmp_path / "ema.safetensors")
    assert torch.equal(head(load(tmp_path)), tiny()["fc.bias"])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not an index of weights"),
        ("[]", "is not an index of weights"),
        ('{"weight_map": ["a.safetensors"]}', "is not an index of weights"),
        ('{"weight_map": {"x": 3}}', "is not an index of weights"),
        ('{"weight_map": {"x": null}}', "is not an index of weights"),
        ("{}", "is not an index of weights"),
        ('{"weight_map": {}}', "names no file, which is missing"),
        ('{"weight_map": {"x": "c.safetensors"}}', "names c.safetensors, which is missing"),
        ('{"weight_map": {"x": "../../etc/passwd"}}', "names passwd, which is missing"),
        ('{"weight_map": {"x": "a.safetensors"}}', "the key "),
    ],
)
def test_an_index_that_is_damaged_or_incomplete_is_refused(tmp_path: Path, index: str, message: str) -> None:
    shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "weights.pth", "best.pt"])
def test_pickled_weights_are_read_only_if_the_recipe_names_the_file(tmp_path: Path, name: str) -> None:
    torch.save(tiny(), tmp_path / name)
    assert f"never loaded: name the file {name} itself" in refused(tmp_path)
    assert choose_files(tmp_path / name, "x") == [tmp_path / name]
    assert torch.equal(head(load(tmp_path / name)), tiny()["fc.bias"])


# Files of torch.save

WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"state_dict": state, "epoch": 90, "best_acc1": 71.5},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)},
    "net of a tutorial": lambda state: {"net": state, "acc": 95.1, "epoch": 200},
    "one unusual name": lambda state: {"student": state, "epoch": 3},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "compiled DataParallel": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "an average beside": lambda state: {
        "state_dict": state,
        "state_dict_ema": {name: tensor + 1 for name, tensor in state.items() if tensor.is_floating_point()},
    },
    "half precision": lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
    "without counters": lambda state: {name: t for name, t in state.items() if not name.endswith("tracked")},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_the_weights_in_a_file_of_torch_are_found(tmp_path: Path, how: str) -> None:
    torch.save(WRAPPED[how](tiny()), tmp_path / "weights.pth")
    assert torch.allclose(head(load(tmp_path / "weights.pth")), tiny()["fc.bias"], atol=1e-2)


class Harmful:
    """An object whose loading runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny(), "extra": Harmful(tmp_path / "ran")}, tmp_path / "weights.pth")
    assert "contains Python objects besides tensors" in refused(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a whole module": (
        lambda f: torch.save(nn.Linear(2, 2), f),
        "Python objects besides tensors, such as a whole module, .*torch.save\\(model.state_dict",
    ),
    "a list": (lambda f: torch.save(list(tiny().values()), f), "contains list, not a dictionary of tensors"),
    "one tensor": (lambda f: torch.save(torch.zeros(3), f), "contains Tensor, not a dictionary of tensors"),
    "a number": (lambda f: torch.save(3, f), "contains int, not a dictionary of tensors"),
    "nothing": (lambda f: torch.save({}, f), "contains nothing, but no dictionary of tensors"),
    "no weights": (lambda f: torch.save({"epoch": 3, "lr": 0.1}, f), "contains epoch, lr, but no dictionary"),
    "two networks": (
        lambda f: torch.save({"generator": tiny(), "encoder": tiny()}, f),
        "contains generator, encoder, but no dictionary of tensors named",
    ),
    "an empty file": (lambda f: f.write_bytes(b""), "weights.pth is not a file of torch.save"),
    "text": (lambda f: f.write_text("<!DOCTYPE html>"), "weights.pth is not a file of torch.save"),
    "a pointer of Git LFS": (
        lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        "weights.pth: it is a Git LFS pointer instead of the file; run `git lfs pull`",
    ),
    "cut off": (
        lambda f: (torch.save(tiny(), f), f.write_bytes(f.read_bytes()[:4000])),
        "weights.pth is not a file of torch.save",
    ),
    "a file of safetensors": (lambda f: save_file(tiny(), f), "weights.pth is not a file of torch.save"),
    "TorchScript": (
        lambda f: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), f),
        "is a TorchScript archive, which is a program",
    ),
    "names of another network": (
        lambda f: torch.save({"layer.weight": torch.zeros(3, 3)}, f),
        "neither a transformers model .* nor weights with the names that torchvision or timm give",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("case", REFUSED)
def test_a_file_without_usable_weights_is_refused(tmp_path: Path, case: str) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100, (2**62).to_bytes(8, "little") + b"{}", b"\0" * 8])
def test_a_damaged_file_of_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    said = refused(tmp_path)
    assert "model.safetensors is not a safetensors file" in said or "contains no tensors" in said


def test_a_pointer_of_git_lfs_is_recognized(tmp_path: Path) -> None:
    folder = save_family("resnet", tmp_path / "family", NAMES)
    for file in (tmp_path / "model.safetensors", folder / "model.safetensors"):
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
        assert "it is a Git LFS pointer instead of the file; run `git lfs pull`" in refused(file.parent)


# A teacher that transformers saved for timm

WRAPPER = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 3, "label_names": NAMES}


@pytest.mark.parametrize("prefix", ["", "timm_model."])
def test_a_wrapped_network_of_timm_is_read_without_timm(tmp_path: Path, prefix: str) -> None:
    save_file({f"{prefix}{name}": tensor for name, tensor in tiny().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(WRAPPER))
    classifier = load(tmp_path)
    assert list(classifier.class_names) == NAMES and torch.equal(head(classifier), tiny()["fc.bias"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "vit_base_patch16_224"}, "the architecture 'vit_base_patch16_224'"),
        ({"architecture": "resnetblur18"}, "the architecture 'resnetblur18'"),
        ({"label_names": ["ant", "bee"]}, "names 2 classes, but its weights have 3"),
        ({"label_names": "ant"}, "label_names"),
        ({"pretrained_cfg": {"mean": 0.5}}, "mean"),
        ({"pretrained_cfg": 7}, "pretrained_cfg"),
        ({"model_type": ["timm_wrapper"]}, "model_type="),
        ({"model_type": 5}, "model_type="),
        ({"model_type": "timm_wraper"}, "unknown architecture 'timm_wraper'"),
    ],
)
def test_a_wrapped_network_with_other_settings_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    save_file(tiny(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(WRAPPER | changed))
    assert message in refused(tmp_path)


def test_weights_of_integers_are_refused(tmp_path: Path) -> None:
    """Quantized weights without their scales are not those of a network; transformers would convert them silently."""
    folder = save_family("resnet", tmp_path, NAMES)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.1.weight"] = torch.randint(-128, 128, tensors["classifier.1.weight"].shape).to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.1.weight as I8, which are not floating-point numbers" in refused(folder)
