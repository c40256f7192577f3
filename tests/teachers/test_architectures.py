"""Networks to train: their published sizes, students from a folder or the Hub, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import HUB, make_source, refused, small_recipe, write_recipe
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoConfig, RegNetConfig

from srel_hub.condense import condense
from srel_hub.config import NETWORKS, Network, load_recipe
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate.summary import results_table
from srel_hub.storage.files import read_json
from srel_hub.teachers import architectures
from srel_hub.teachers.cost_model import build_on_meta


PUBLISHED = {  # parameters at 1,000 classes and 224 pixels: torchvision's and timm's model tables; of ours none is
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "vit_base": 86_567_656,
    "swin_tiny": 28_288_354,
    "convnextv2_tiny": 28_635_496,
    "regnet_x_8gf": 39_572_648,
    "regnet_y_400mf": 4_344_144,
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
}
OURS = {"convnet", "bn_vit_tiny", "bn_vit_small"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_its_published_size(name: str) -> None:
    assert (name in OURS) != (name in PUBLISHED)
    stem = "imagenet" if name.startswith("resnet") else "small"
    built = build_on_meta(Network(model=name, stem=stem), 1000, (224, 224))  # type: ignore[arg-type]
    architectures.require_usable(built, 1000, (224, 224), name)
    if name in PUBLISHED:
        assert sum(parameter.numel() for parameter in built.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_narrow_network_learns_small_images_of_any_shape(name: str) -> None:
    size = (32, 40)
    built = architectures.build(Network(model=name, width=0.25), list("abc"), size, seed=2).train()
    built(torch.randn(4, 3, *size)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    again = architectures.build(Network(model=name, width=0.25), list("abc"), size, seed=2).state_dict()
    assert all(
        torch.equal(tensor, again[key])
        for key, tensor in built.state_dict().items()
        if "running" not in key and "num_batches" not in key
    )


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of three colors, 32 pixels."""
    folder = tmp_path_factory.mktemp("colors")
    return write_recipe(
        folder / "colors.yaml", make_source(folder / "source", (32, 32), ["red", "green", "blue"]), ipc=2
    )


@pytest.fixture(scope="module")
def regnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds an architecture, and no weights."""
    folder = tmp_path_factory.mktemp("secret") / "my-regnet"
    config = RegNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], groups_width=8, embedding_size=8)
    config.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_bn_vit_is_squeezed_and_students_of_any_kind_are_trained(tmp_path: Path, colors: Path, regnet: Path) -> None:
    HUB.put("models", "org/regnet", regnet)
    commit = HfApi().model_info("org/regnet").sha
    assert commit is not None
    run = Run(
        small_recipe(
            colors,
            tmp_path,
            "squeeze.network={model: bn_vit_tiny, width: 0.1}",
            "squeeze.optimizer={kind: adamw, lr: 2.0e-3, weight_decay: 0.05}",
            "squeeze.epochs=8",
            "recover={ipc: 2, iterations: 20, bn_weight: auto}",
            f"evaluate.students=[{{model: convnet, width: 0.05}}, {{model: {regnet}}}, {{model: org/regnet}}]",
            "evaluate.seeds=1",
        )
    )
    condense(run)
    run.close()
    summary = read_json(run.path("evaluate", "summary.json"))
    assert [student["model"] for student in summary["students"]] == ["convnet", "my-regnet", "org/regnet"]
    assert [student["revision"] for student in summary["students"]] == [None, None, commit]
    table = "\n".join(results_table(summary))
    assert "convnet x 0.05 " in table and f"org/regnet at {commit[:7]} " in table
    for file in (*run.path("dataset").rglob("*"), *run.path("teacher_repo").rglob("*")):
        assert not file.is_file() or str(regnet.parent).encode() not in file.read_bytes(), file
    again = load_recipe(run.folder)
    assert [student.model for student in again.evaluate.students] == ["convnet", str(regnet), "org/regnet"]
    assert load_file(run.path("teacher", "model.safetensors"))["vit.layernorm.layer.running_mean"].abs().max() > 0
    assert AutoConfig.from_pretrained(run.path("teacher_repo")).model_type == "srel_bn_vit"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["squeeze.network.model=resnet19"], "got 'resnet19'; did you mean resnet18?"),
        (["squeeze.network.model=deit_tiny"], "ViTForImageClassification has no BatchNorm2d layer"),
        (["evaluate.students=[{model: resnet18, revision: main}]"], "resnet18 is not on the Hub"),
        (["evaluate.students=[{model: org/x, width: 0.5}]"], "that of org/x is set by its config.json"),
        (["evaluate.students=[{model: deit_tiny, stem: imagenet}]"], "only ResNets have this option"),
        (
            ["evaluate.students=[{model: org/nowhere}]"],
            "evaluate.students.0.model=org/nowhere: this is not a local folder or file, and not a",
        ),
        (["evaluate.students=[{model: ./nowhere}]"], "evaluate.students.0.model=./nowhere: there is no such folder"),
        (["evaluate.students=[{model: convnextv2_tiny}]", "source.image_size=16"], "cannot process images of 16 x 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_that_cannot_be_trained_is_refused_first(
    tmp_path: Path, colors: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], expected: str
) -> None:
    message = refused(capsys, str(colors), *overrides, f"run.root={tmp_path / 'runs'}")
    assert expected in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"model_type": "bert"}', "transformers cannot build an image classifier from its config"),
        ('{"model_type": "nonsense"}', "transformers cannot read its config.json"),
        ("{", "transformers cannot read its config.json"),
        ('{"model_type": "vit", "auto_map": {"AutoConfig": "evil.Config"}, "hidden_size": 7}', "image classifier"),
    ],
    ids=["of text", "unknown", "no JSON", "impossible"],
)
def test_a_config_that_transformers_cannot_use_is_refused(
    tmp_path: Path, colors: Path, capsys: pytest.CaptureFixture[str], config: str, expected: str
) -> None:
    shutil.rmtree(tmp_path / "foreign", ignore_errors=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text(config)
    students = f"evaluate.students=[{{model: {tmp_path / 'foreign'}}}]"
    message = refused(capsys, str(colors), students, f"run.root={tmp_path / 'runs'}")
    assert expected in message and "evaluate.students.0.model=" in message
