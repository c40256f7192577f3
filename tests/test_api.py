"""The public interface: what an import loads and leaves alone, typed results, and examples that run as documented."""

import ast
import doctest
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HUB, ROOT

import srel_hub
from srel_hub import Condensed, Epoch, UserError, condense_dataset, load_condensed, load_recipe, verify_dataset


# The shipped quickstart with less work. A file of this name in the working directory takes the shipped one's place.
QUICKSTART = """
extends: quickstart.yaml
name: quickstart
precision: float32
pictures: false
squeeze: {epochs: 6}
recover: {iterations: 60}
relabel: {epochs: 3}
evaluate: {epochs: 1}
run: {cpu_threads: 1}
"""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented() -> dict[str, str]:
    """Return the docstrings that must have examples, by name: of public names, of the two classes' public methods.

    Those of properties and special methods are added where they have one.
    """
    objects: dict[str, Any] = {name: getattr(srel_hub, name) for name in srel_hub.__all__ if name != "__version__"}
    for owner in (Condensed, Epoch):
        for name, member in vars(owner).items():
            is_public_method = inspect.isfunction(member) and not name.startswith("_")
            if is_public_method or ">>>" in str(member.__doc__):
                objects[f"{owner.__name__}.{name}"] = member
    return {name: inspect.cleandoc(value.__doc__ or "") for name, value in objects.items()}


DOCUMENTED = documented()


def run_example(docstring: str) -> int:
    """Run the examples of a docstring in the working directory and compare what they show; return how many ran.

    What a statement prints on the way, such as a plan, is not compared.
    """
    examples = doctest.DocTestParser().get_examples(docstring)
    checker, variables = doctest.OutputChecker(), dict[str, Any]()
    for example in examples:
        shown = evaluate(example.source, variables)
        if example.want:
            assert checker.check_output(example.want, shown, FLAGS), f"{example.source}{shown!r} != {example.want!r}"
    return len(examples)


def evaluate(source: str, variables: dict[str, Any]) -> str:
    """Run a statement as an interactive session does, and return what it shows."""
    lines: list[str] = []
    variables["print"] = lambda *values: lines.append(" ".join(map(str, values)) + "\n")
    is_expression = isinstance(ast.parse(source).body[0], ast.Expr)
    if not is_expression:
        exec(source, variables)
    elif (value := eval(source, variables)) is not None:
        lines.append(f"{value!r}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the example of `condense_dataset` ran."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "quickstart").write_text(QUICKSTART)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run_example(DOCUMENTED["condense_dataset"]) > 0
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_every_public_docstring_has_an_example_that_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(world / "runs", tmp_path / "runs")
    shutil.copy(world / "quickstart", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as in an interactive session
    assert run_example(DOCUMENTED[name]) > 0, f"{name} has no example"


def test_the_documented_names_are_the_public_ones() -> None:
    public = {"Condensed", "Epoch", "Recipe", "condense_dataset", "load_condensed", "load_recipe", "save_teacher"}
    errors = {"RecipeError", "UnavailableError", "UserError"}
    assert set(srel_hub.__all__) == public | errors | {"verify_dataset", "__version__"}
    assert set(srel_hub.__all__) <= set(dir(srel_hub))
    with pytest.raises(AttributeError, match="has no attribute 'load_condesned'"):
        srel_hub.load_condesned  # type: ignore[attr-defined]  # noqa: B018
    assert (ROOT / "srel_hub" / "py.typed").is_file()


# Results


def test_the_result_has_the_paths_the_sizes_and_the_accuracies(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    run = condense_dataset("quickstart", ["recover.ipc=5"])  # complete, so that it is only read
    assert run == condense_dataset("runs/quickstart") == condense_dataset(load_recipe("runs/quickstart"))
    assert (run.dataset / "README.md").is_file() and (run.teacher / "model.safetensors").is_file()
    summary = json.loads((run.folder / "evaluate" / "summary.json").read_text())
    rows = [row for student in summary["students"] for row in student["rows"]]
    assert [(result.row, result.top1.mean, result.top5.std) for result in run.results] == [
        (row["row"], row["top1"]["mean"], row["top5"]["std"]) for row in rows
    ]
    assert run.result("random-real").train_images == 50 and run.result().row == "condensed"
    assert run.image_bytes + run.label_bytes < run.dataset_bytes
    with pytest.raises(KeyError, match="no result of any student on nothing; results: convnet x 1 on condensed"):
        run.result("nothing")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"recover.icp": 5}, "recover.icp: unknown field"),
        ({"recover.ipc": object()}, "recover.ipc=<object object at .*: must be a number, a string, a path, None"),
        ("recover.ipc=5", "overrides='recover.ipc=5': must be a mapping such as"),
        ({"run.root": "nowhere", "source.path": Path("nowhere/images"), "source.builtin": None}, "nowhere/images"),
    ],
)
def test_mistakes_raise_a_user_error_and_do_not_exit(tmp_path: Path, overrides: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        condense_dataset("quickstart", overrides)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: condense_dataset(5),
            "recipe=5: must be a string or a path, got int; pass the name of a shipped recipe",
        ),
        (lambda: condense_dataset(None), "recipe=None: must be a string or a path"),
        (lambda: condense_dataset({"recover": {"ipc": 1}}), "must be a string or a path, got dict"),
        (lambda: condense_dataset("quickstart", 7), "overrides=7: must be a mapping"),
        (lambda: condense_dataset("quickstart", [7]), "overrides: 7 is a int"),
        (lambda: verify_dataset(None), "path=None: must be a string or a path, got NoneType; pass the folder of a"),
        (lambda: verify_dataset(b"runs"), "must be a string or a path, got bytes"),
        (lambda: verify_dataset("org/name", 1.0), "revision=1.0: must be a string or None, got float"),
        (lambda: verify_dataset("org/name", fast="yes"), "fast='yes': must be True or False, got str"),
        (lambda: load_condensed(""), "the path is empty; pass a folder, or namespace/name of a dataset on the Hub"),
        (lambda: load_condensed(3), "path=3: must be a string or a path"),
        (lambda: load_condensed("org/name", revision=2), "revision=2: must be a string or None"),
        (lambda: load_recipe(5), "path=5: must be a string or a path"),
        (lambda: load_recipe("quickstart", "recover.ipc=5"), "overrides='recover.ipc=5': must be a mapping"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call()


def test_a_loaded_recipe_takes_no_overrides() -> None:
    with pytest.raises(UserError, match="not allowed with a loaded recipe; pass them to load_recipe"):
        condense_dataset(load_recipe("quickstart"), {"seed": 1})


def test_overrides_keep_their_types(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text with YAML's special characters, text that looks like a number, None, and nested values."""
    seen: list[Any] = []
    monkeypatch.setattr("srel_hub.api.Run", lambda recipe: seen.append(recipe) or pytest.skip.Exception("stop"))
    overrides = {"name": "010", "source.title": "é: [x] # \U0001f600", "publish.tag": None, "recover.lr": 1e-5}
    overrides["evaluate.students"] = [{"model": "convnet", "width": np.float32(0.5)}]
    overrides |= {"recover.ipc": np.int64(7), "seed": torch.tensor(3), "relabel.epochs": np.uint8(5)}
    with pytest.raises(AttributeError):
        condense_dataset("quickstart", overrides)
    (recipe,) = seen
    assert (recipe.recover.ipc, recipe.seed, recipe.relabel.epochs) == (7, 3, 5)
    assert (recipe.name, recipe.source.title, recipe.publish.tag) == ("010", "é: [x] # \U0001f600", None)
    assert recipe.recover.lr == 1e-5 and recipe.evaluate.students[0].width == 0.5


INTEGERS = [1, np.int64(1), np.int8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8)]


@pytest.mark.parametrize("number", INTEGERS, ids=lambda number: f"{type(number).__name__}-{number}")
def test_an_integer_of_numpy_or_torch_is_an_integer(world: Path, number: Any) -> None:
    dataset = world / "runs" / "quickstart" / "dataset"
    assert type(condensed := load_condensed(dataset, epochs=number).epochs) is int and condensed == 1
    epoch = load_condensed(dataset, 2)[number]
    assert torch.equal(epoch[number]["logits"], load_condensed(dataset)[1][1]["logits"])


@pytest.mark.parametrize(
    "wrong",
    [0, -1, 1.0, np.float64(1), "1", True, np.True_, [1], torch.tensor([1, 2]), torch.tensor(1.5), b"1", object()],
)
def test_what_is_no_number_of_epochs_is_named(world: Path, wrong: Any) -> None:
    dataset = world / "runs" / "quickstart" / "dataset"
    with pytest.raises(UserError, match="epochs=.*must be a whole number of at least 1, the epochs to train"):
        load_condensed(dataset, epochs=wrong)
    if type(wrong) is not int:
        condensed = load_condensed(dataset)
        with pytest.raises(UserError, match="epoch=.*must be a whole number"):
            condensed[wrong]
        with pytest.raises(UserError, match="index=.*must be a whole number"):
            condensed[0][wrong]


def test_signal_handlers_and_threads_are_left_as_they_were(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.set_num_threads(2)
    try:
        condense_dataset("runs/quickstart")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_interrupted_call_is_resumed_by_the_same_call(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(world / "quickstart", tmp_path)
    monkeypatch.chdir(tmp_path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("srel_hub.condense.relabel", interrupt)
        with pytest.raises(KeyboardInterrupt):
            condense_dataset("quickstart", {"recover.ipc": 5})
    run = condense_dataset("quickstart", {"recover.ipc": 5})
    images = "images/" + next((world / "runs/quickstart/images").iterdir()).name
    assert (run.folder / images).read_bytes() == (world / "runs/quickstart" / images).read_bytes()


def test_a_notebooks_launcher_takes_it(world: Path) -> None:
    code = (
        "from accelerate import notebook_launcher\nfrom srel_hub import condense_dataset\n"
        "notebook_launcher(condense_dataset, ('quickstart', {'recover.ipc': 5}), num_processes=1)\n"
        "print(condense_dataset('quickstart', {'recover.ipc': 5}).result().train_images)\n"
    )
    done = python(world, code)
    assert done.stdout.splitlines()[-1] == "50"


def test_a_verification_is_true_where_nothing_failed(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "runs" / "quickstart", tmp_path / "quickstart")
    dataset = tmp_path / "quickstart" / "dataset"
    fast = verify_dataset(dataset, fast=True)
    assert fast and fast.passed and not fast.failures
    assert "-      soft labels: skipped (--fast)" in fast.lines and str(fast) == "\n".join(fast.lines)
    (dataset / "metrics.json").unlink()
    verification = verify_dataset(dataset)
    assert not verification and [check.name for check in verification.failures] == ["files"]
    assert "metrics.json is missing" in verification.failures[0].message


# What importing and loading leaves alone

LOAD = """
import json, logging, os, signal, sys
import datasets, psutil, torch
import huggingface_hub.utils._http as http
from huggingface_hub.utils import are_progress_bars_disabled

WINDOWS
def state():
    return [
        http._GLOBAL_CLIENT_FACTORY is http.default_client_factory,
        are_progress_bars_disabled(),
        datasets.is_progress_bar_enabled(),
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
        len(logging.root.handlers),
        logging.root.level,
        signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    ]

before, modules = state(), set(sys.modules)
import srel_hub
imported = sorted(set(sys.modules) - modules)
from srel_hub import load_condensed
condensed = load_condensed(sys.argv[1])
pixel_values, logits = condensed[0].batch(torch.arange(3))
loaded = sorted(set(sys.modules) - modules)
assert before == state(), (before, state())
if sys.argv[2:] == ["teacher"]:
    from transformers.utils import logging as transformers_logging
    enabled = transformers_logging.is_progress_bar_enabled()
    condensed.teacher()
    assert transformers_logging.is_progress_bar_enabled() == enabled and before == state()
print(json.dumps([imported, loaded, list(pixel_values.shape), list(logits.shape)]))
"""


# The other libraries choose their modules by the operating system, so they are imported first.
WINDOWS = """
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sysconf", "sched_getaffinity", "fork", "link"):
    if hasattr(os, name):
        delattr(os, name)
"""


def python(folder: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = HUB.environment(folder / ".hf", None) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_loading_imports_no_pipeline_and_needs_no_posix(world: Path, tmp_path: Path) -> None:
    dataset = world / "runs" / "quickstart" / "dataset"
    imported, loaded, images, logits = json.loads(
        python(tmp_path, LOAD.replace("WINDOWS", WINDOWS), str(dataset)).stdout
    )
    assert imported == ["srel_hub"] and images == [3, 3, 8, 8] and logits == [3, 10]
    heavy = ("accelerate", "transformers", "jinja2", "matplotlib", "srel_hub.runs", "srel_hub.stages")
    heavy += ("srel_hub.reports", "srel_hub.studies", "srel_hub.commands", "srel_hub.teachers", "srel_hub.data")
    assert not [name for name in loaded if re.match(rf"({'|'.join(heavy)})(\.|$)", name)]


@pytest.mark.long
def test_the_teacher_leaves_progress_bars_as_they_were(world: Path, tmp_path: Path) -> None:
    python(tmp_path, LOAD.replace("WINDOWS", ""), str(world / "runs" / "quickstart" / "dataset"), "teacher")


# Types

REVEALED = [
    "srel_hub.labels.dataset.Condensed",
    "torch.nn.modules.module.Module",
    "torch._tensor.Tensor",
    "torch._tensor.Tensor",
    "tuple[str, ...]",
    "tuple[float, float, float]",
    "int",
    "int",
    "srel_hub.labels.epochs.Epoch",
    "dict[str, torch._tensor.Tensor]",
    "tuple[torch._tensor.Tensor, torch._tensor.Tensor]",
    "torch._tensor.Tensor",
    "torch._tensor.Tensor",
    "typing.Sequence[typing.Sequence[int]] | None",
    "int",
    "srel_hub.api.CondensedRun",
    "pathlib.Path",
    "tuple[srel_hub.api.StudentResult, ...]",
    "srel_hub.api.Accuracy",
    "float | None",
    "int",
    "pathlib.Path",
    "srel_hub.config.recipe.Recipe",
    "srel_hub.labels.verify.Verification",
    "bool",
    "tuple[srel_hub.labels.verify.Check, ...]",
    "tuple[str, ...]",
    "srel_hub.errors.UserError",
    "str",
]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_users_file_is_typed_strictly_and_nothing_is_any(tmp_path: Path) -> None:
    """`mypy --strict` accepts tests/typing/user.py, without this repository's settings."""
    shutil.copy(ROOT / "tests" / "typing" / "user.py", tmp_path)
    (tmp_path / "mypy.ini").write_text("[mypy]\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=mypy.ini"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "user.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert [text.replace("builtins.", "").replace("?", "") for text in revealed] == REVEALED
