"""Networks of the user's own: saved as teachers, trained in a run, published, and loaded only with consent."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, make_source, refused, write_recipe
from own_network import MY_NET, working_in
from torch import nn

from srel_hub import UserError, save_teacher, verify_dataset
from srel_hub.condense import condense
from srel_hub.config import Pretrained, load_recipe
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json
from srel_hub.teachers.own_code import import_modules
from srel_hub.teachers.pretrained import load_pretrained


NAMES = ["red", "green", "blue"]
FACTORY = "squeeze.network={factory: my_net:build}"
TRAINED = [
    *(option for option in SMALL if not option.startswith(("evaluate=", "squeeze.network="))),
    *("run.imports=[my_net]", FACTORY, "squeeze.epochs=20", "recover.iterations=60", "run.root=runs"),
    "evaluate={students: [{factory: my_net:build}], seeds: 1, epochs: 2, batch_size: 8}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The current folder of a user, with my_net.py and a recipe of three colors."""
    (tmp_path / "my_net.py").write_text(MY_NET)
    write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", (8, 8), NAMES))
    with working_in(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def condensed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my_net.py and the run `runs/colors`, whose teacher and student are this network."""
    place = tmp_path_factory.mktemp("own")
    (place / "my_net.py").write_text(MY_NET)
    write_recipe(place / "colors.yaml", make_source(place / "source", (8, 8), NAMES))
    with working_in(place):
        run = Run(load_recipe("colors.yaml", TRAINED))
        condense(run)
        run.close()
    return place


def my_net() -> Any:
    """The user's module, imported by the user."""
    import_modules(["my_net"], "x")
    return sys.modules["my_net"]


def trained(network: nn.Module) -> nn.Module:
    """A network whose running statistics are not those of the beginning, in train mode."""
    network.train()(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return network


def save(module: Any, **changed: Any) -> Path:
    arguments = {"class_names": NAMES, "mean": [0.4] * 3, "std": [0.2] * 3, "size": 8, "source": "my_net.py"}
    return save_teacher(module, "teacher", **{**arguments, **changed})


# save_teacher


@torch.no_grad()
@pytest.mark.parametrize("factory", ["build", "MyNet"])
def test_a_saved_module_is_a_pretrained_teacher_with_the_same_logits(folder: Path, factory: str) -> None:
    network = trained(my_net().MyNet(3))
    saved = save(network, factory=factory, size=(8, 10))
    assert network.training
    assert (saved / "my_net.py").read_text() == MY_NET
    classifier, origin = load_pretrained(Pretrained(path=str(saved)), "squeeze.pretrained")
    assert (classifier.class_names, classifier.mean, classifier.size) == (tuple(NAMES), (0.4, 0.4, 0.4), (8, 10))
    assert list(origin.sha256) == ["model.safetensors"]
    images = torch.randn(4, 3, 8, 10)
    assert torch.equal(classifier.model(images).logits, network.eval()(images))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "names of another number": ({"class_names": ["a", "b"]}, r"builds head.bias with the shape \[2\], but that of the"),
    "names that repeat": ({"class_names": ["a", "b", "a"]}, "class_names: 'a' occurs twice"),
    "one text as names": ({"class_names": "abc"}, "class_names='abc': must be a list"),
    "a name that is no text": ({"class_names": ["a", 1, None]}, "every name must be text"),
    "a mean of bytes": ({"mean": [127, 127, 127]}, "mean=.*three numbers, one per RGB channel, from 0 to 1"),
    "one mean": ({"mean": 0.5}, "mean=0.5: must be three numbers"),
    "no deviation": ({"std": [0, 0.1, 0.1]}, "std=.*greater than 0"),
    "a deviation that is no number": ({"std": ["0.1"] * 3}, "std=.*greater than 0"),
    "no size": ({"size": 0}, "size=0: must be the side"),
    "three sizes": ({"size": (3, 8, 8)}, "size=.*must be the side"),
    "another source": ({"source": "nowhere.py"}, "nowhere.py: this is not a file of Python code"),
    "another factory": ({"factory": "make"}, "my_net.py has no function or class make; name the function"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_saved_is_reported_and_nothing_is_written(folder: Path, case: str) -> None:
    changed, message = BAD[case]
    import_modules(["my_net"], "x")
    with pytest.raises(UserError, match=message):
        save(trained(my_net().build(3)), **changed)
    assert not (folder / "teacher").exists()


def test_all_wrong_arguments_are_reported_together_and_files_are_never_replaced(folder: Path) -> None:
    (folder / "teacher").mkdir()
    (folder / "teacher" / "mine.txt").touch()
    with pytest.raises(UserError) as caught:
        save("no module", mean=[2, 2, 2], size="8")
    assert [line.split(":")[0].split("=")[0] for line in str(caught.value).splitlines()] == [
        *("module", "folder", "mean", "size")
    ]
    assert [file.name for file in (folder / "teacher").iterdir()] == ["mine.txt"]


def test_a_factory_with_other_options_than_the_modules_is_refused(folder: Path) -> None:
    import_modules(["my_net"], "x")
    with pytest.raises(
        UserError, match=r"builds features.0.weight with the shape \[8, 3, 3, 3\], but .*\[4, 3, 3, 3\]"
    ):
        save(trained(my_net().MyNet(3, width=4)))
    network = trained(my_net().build(3))
    network.scale.fill_(1.0)  # type: ignore[operator, union-attr]  # not stored with the weights
    with pytest.raises(UserError, match="returns other logits than the module"):
        save(network)
    assert not (folder / "teacher").exists()


def test_a_module_that_draws_random_numbers_in_eval_mode_is_refused(folder: Path) -> None:
    code = MY_NET.replace("return self.head(", "return nn.functional.dropout(self.head(").replace(
        "self.scale)", "self.scale), 0.5)"
    )
    assert code.count("dropout") == 1
    (folder / "my_net.py").write_text(code)
    with pytest.raises(UserError, match="source=my_net.py: its logits differ when it sees the same images again"):
        save(trained(my_net().build(3)))
    assert not (folder / "teacher").exists()


# Recipes


CODE: dict[str, tuple[str, str]] = {
    "an import error": ("import nothing_of_this_name", "importing bad failed: ModuleNotFoundError: .*(bad.py, line 1)"),
    "a syntax error": ("def build(:", "importing bad failed: SyntaxError"),
    "an exit": ("import sys\nsys.exit(0)", "importing bad failed: SystemExit: 0 .bad.py, line 2"),
    "a neighbor": ("import my_net\nbuild = my_net.build", "bad.py imports my_net from files beside it"),
    "no factory": ("", "bad.py has no function or class build"),
    "no function": ("build = 3", "bad.py has no function or class build"),
    "arguments": ("def build(depth, num_classes): ...", "requires the arguments depth, but is called with"),
    "no module": ("def build(): return 7", "must return a torch.nn.Module, but returns int"),
    "a failure": ("def build():\n    return 1 / 0", "bad:build failed: ZeroDivisionError: .*(bad.py, line 2)"),
    "another output": (
        "class Net(nn.Module):\n    def forward(self, x): return {'out': x}\ndef build(): return Net()",
        r"must return a tensor of logits \[B, 3\], or an output with `logits`, but returns dict",
    ),
    "a failing forward": (
        "class Net(nn.Module):\n    def forward(self, x): return x.missing\ndef build(): return Net()",
        "cannot process images of 8 x 8 pixels: AttributeError: .*(bad.py, line 3)",
    ),
    "another shape": (
        "def build(): return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5))",
        r"returns logits of shape \[1, 5\], but must return \[1, 3\]",
    ),
    "no BatchNorm": (
        "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.LayerNorm(3))",
        r"Sequential has no BatchNorm2d layer \(normalization: 1 LayerNorm\)",
    ),
    "dropout that stays": (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))\n"
        "    def forward(self, x): return nn.functional.dropout(self.layer(x), 0.5)\ndef build(): return Net()",
        "its logits differ when it sees the same images again; remove what is random in eval mode",
    ),
    "statistics of the batch": (
        "def build():\n    norms = nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)\n"
        "    return nn.Sequential(*norms, nn.Flatten(), nn.Linear(192, 3))",
        "its logits of an image depend on the other images in the batch; use layers that normalize with running",
    ),
    "one image at a time": (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 3)\n"
        "    def forward(self, x): return self.head(self.norm(x).reshape(1, -1))\ndef build(): return Net()",
        r"cannot process 4 images of 8 x 8 pixels: RuntimeError: .*\(bad.py, line 6\)",
    ),
    "values of tensors": (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))\n"
        "    def forward(self, x): return self.layer(x) if x.mean() > 0 else -self.layer(x)\n"
        "def build(): return Net()",
        "must work for tensors on the meta device",
    ),
}


@pytest.mark.parametrize("case", CODE)
def test_a_mistake_in_the_users_code_is_one_line_that_names_the_field(
    folder: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    code, message = CODE[case]
    (folder / "bad.py").write_text("from torch import nn\n" * ("nn." in code) + code)
    said = refused(capsys, "colors.yaml", "run.imports=[bad]", "squeeze.network={factory: bad:build}", *SMALL[-2:])
    lines = [line for line in said.splitlines() if "bad" in line]
    assert len(lines) == 1 and lines[0].startswith(("error: squeeze.network.factory=", "error: run.imports=")), said
    assert re.search(message, lines[0]), lines[0]
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([FACTORY], "squeeze.network.factory=my_net:build: srel_hub runs your own code only with your consent; set"),
        (["run.imports=[nowhere]"], "run.imports=nowhere: there is no module nowhere: no file nowhere.py in"),
        (["run.imports=[my_net.py]"], "such as my_net; write my_net, got 'my_net.py'"),
        (["squeeze.network={factory: my_net}"], "must be a module and its name for a callable, such as my_net:build"),
        (["squeeze.network={factory: my_net:build, model: convnet}"], "model=convnet is set too"),
        (["squeeze.network={factory: my_net:build, width: 0.5}"], "only networks with a name have a width"),
        (["squeeze.network={model: my_net:build}"], "a function of your own is set by factory=my_net:build"),
        (["evaluate.students=[{factory: os:getcwd}]"], "evaluate.students.0.factory=os:getcwd: srel_hub runs your own"),
        (
            [f"squeeze.network={{factory: my_net:build, source_sha256: {'a' * 64}}}", "run.imports=[my_net]"],
            "restore the file",
        ),
    ],
)
def test_a_network_without_consent_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert message in refused(capsys, "colors.yaml", *overrides)
    assert "my_net" not in sys.modules or "run.imports=[my_net]" in overrides
    assert not (folder / "runs").exists()


def test_a_changed_file_is_another_network(condensed: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(condensed / "runs", folder / "runs")
    shutil.copytree(condensed / "source", folder / "source", dirs_exist_ok=True)
    stored = load_recipe("runs/colors")
    assert stored.run.imports == ("my_net",) and stored.squeeze.network.source_sha256 is not None
    (folder / "my_net.py").write_text(MY_NET.replace("* self.scale", "* self.scale * 2"))
    assert "squeeze.network.source_sha256: " in refused(capsys, "runs/colors")
    before = [student.name for student in stored.evaluate.students]
    assert before[0] == f"my_net--build-{stored.evaluate.students[0].source_sha256[:8]}-1"  # type: ignore[index]


# What other people get


def test_verify_needs_the_code_and_says_so_in_one_line(condensed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with working_in(condensed):
        with pytest.raises(UserError) as caught:
            verify_dataset("runs/colors/dataset")
        message = str(caught.value)
        assert (
            "\n" not in message and "its network is built by my_net:build" in message and "--import my_net" in message
        )
        assert "my_net" not in sys.modules
        verification = verify_dataset("runs/colors/dataset", imports=["my_net"])
        assert verification, str(verification)
    card = (condensed / "runs/colors/teacher_repo/README.md").read_text()
    assert "MyNet, built by `my_net:build`" in card and "allow(my_net)" in card
    assert (condensed / "runs/colors/teacher_repo/my_net.py").read_text() == MY_NET
    assert "auto_map" not in read_json(condensed / "runs/colors/teacher_repo/config.json")


def test_another_file_of_the_same_name_is_not_the_teachers(condensed: Path, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(MY_NET + "\n")
    with working_in(tmp_path):
        failed = verify_dataset(condensed / "runs/colors/dataset", imports=["my_net"]).failures
    assert "my_net.py is not the file that the weights were saved with: its sha256 is" in str(failed[0])


def test_a_config_never_leads_to_an_import(condensed: Path, tmp_path: Path) -> None:
    shutil.copytree(condensed / "runs/colors/teacher_repo", tmp_path / "teacher")
    file = tmp_path / "teacher" / "config.json"
    marker = tmp_path / "ran"
    (tmp_path / "evil_net.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with working_in(tmp_path):
        sys.path.insert(0, str(tmp_path))
        for factory in ("evil_net:build", "os:getcwd", "builtins:print", "", ":", "a:b:c", "../evil_net:build"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "factory": factory, "source_sha256": ""}))
            with pytest.raises(UserError, match="srel_hub never runs unasked"):
                load_pretrained(Pretrained(path=str(tmp_path / "teacher")), "squeeze.pretrained")
        sys.path.remove(str(tmp_path))
    assert not marker.exists()
