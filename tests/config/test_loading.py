"""Reading, merging, overriding and validating recipes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from srel_hub import config
from srel_hub.config import Recipe, RecipeError, load_recipe
from srel_hub.config.loading import name_of_file
from srel_hub.config.resources import RECIPES
from srel_hub.config.yaml_io import Loader, to_yaml
from srel_hub.errors import UserError


MINIMAL = "source: {builtin: digits}\nrecover: {ipc: 10}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_by_path_and_by_name(path: Path) -> None:
    assert load_recipe(path) == load_recipe(path.stem)
    assert load_recipe(path).name == path.stem
    head = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "ublished" in head  # the source of its numbers


def test_yaml_and_back_is_identity() -> None:
    loaded = load_recipe("tiny_imagenet_ipc50")
    text = to_yaml(config.as_dict(loaded))
    assert TypeAdapter(Recipe).validate_python(yaml.safe_load(text)) == loaded
    assert json.loads(config.canonical(loaded)) == config.as_dict(loaded)


def test_overrides_win_and_numbers_are_numbers(file: Path) -> None:
    loaded = load_recipe(file, ["recover.lr=1e-3", "recover.roll=[-4, 4]", "evaluate.students=[{model: convnet}]"])
    assert loaded.recover.lr == 0.001 and loaded.recover.roll == (-4, 4)
    assert loaded.evaluate.students[0].model == "convnet" and loaded.name == "mine"


@pytest.mark.parametrize(
    ("text", "title"),
    [("007", "007"), ("1.10", "1.10"), ("a #1 b", "a #1 b"), ("# x", "# x"), ("'null'", "null"), ("null", None)],
)
def test_text_fields_take_an_override_literally(file: Path, text: str, title: str | None) -> None:
    loaded = load_recipe(file, [f"source.title={text}"])
    assert loaded.source.title == title
    again = TypeAdapter(Recipe).validate_python(yaml.load(to_yaml(config.as_dict(loaded)), Loader))
    assert again == loaded


@pytest.mark.parametrize(("text", "ipc"), [("010", 10), ("1e3", 1000), ("+7", 7)])
def test_numbers_are_those_of_yaml_1_2(file: Path, text: str, ipc: int) -> None:
    assert load_recipe(file, [f"recover.ipc={text}"]).recover.ipc == ipc
    with pytest.raises(RecipeError, match="recover.ipc: "):
        load_recipe(file, ["recover.ipc=1:30"])


def test_a_number_in_a_text_field_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(MINIMAL + "squeeze: {pretrained: {path: x, class_names: [007, b]}}\n")
    with pytest.raises(RecipeError, match=r"class_names.0: must be one line of text, got 7; put it in quotes"):
        load_recipe(tmp_path / "bad.yaml")


def test_extends_merges_section_by_section(tmp_path: Path, file: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\nrecover: {iterations: 7}\n")
    assert load_recipe(child).recover == config.Recover(ipc=10, iterations=7)
    assert load_recipe(child).name == "child"


def test_extending_itself_is_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")


def test_the_fingerprint_depends_on_values_not_on_spelling(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("recover: {ipc: 10, lr: 2.5e-1}\nname: mine\nsource:\n  builtin: digits\n")
    assert config.fingerprint(load_recipe(other)) == config.fingerprint(load_recipe(file))
    assert config.fingerprint(load_recipe(file, ["seed=1"])) != config.fingerprint(load_recipe(file))


def test_all_errors_are_reported_together(file: Path) -> None:
    wrong = {
        "recover.lr=fast": "recover.lr: must be a number above 0, got 'fast'",
        "recover.itertions=3": "recover.itertions: unknown field; did you mean iterations?",
        "recover.iterations=true": "recover.iterations: must be a whole number of at least 1, got true",
        "squeeze.network.model=resnet19": "squeeze.network.model: must be one of resnet18, ",
        "evaluate.seeds=0": "evaluate.seeds: must be a whole number of at least 1, got 0",
        "source.path=somewhere": "source: exactly one of source.path",
        "relabel.augment.scale=[0.5, 0.1]": "relabel.augment: scale=[0.5, 0.1]: must be [low, high]",
        "squeeze.optimizer.lr=.nan": "squeeze.optimizer.lr: must be a finite number above 0, got nan",
        "publish.repo_id=a--b": "publish: ",
        "run.cpu_threads=many": "run.cpu_threads: must be a whole number from 1 to 1024 or auto, got 'many'",
        "nonsense": "'nonsense': an override is key=value",
        "sorce.path=x": "sorce: unknown field; did you mean source?",
    }
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, list(wrong))
    lines = str(caught.value).splitlines()
    for expected in wrong.values():
        assert any(line.strip().startswith(expected) for line in lines), (expected, lines)
    assert len(caught.value.messages) == len(wrong)
    assert "got 'resnet19'; did you mean resnet18?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "a recipe must be a mapping of sections, got list"),
        ("source: {builtin: digits\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "duplicate key 'seed' in lines 1 and 2; remove one of them"),
        ("source: !!python/object:os.system {}\n", "not valid YAML"),
        ("extends: nowhere.yaml\n", "there is no file"),
        ("extends: quikstart\n", "no shipped recipe of that name; did you mean quickstart?"),
        ("extends: [quickstart]\n", "extends: must be a file or the name of a shipped recipe, got ['quickstart']"),
        ("source:\n\tbuiltin: digits\n", "cannot start any token in line 2, column 1"),
        ("title: \0", "not valid YAML"),
        ("extends: quickstart\nname: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        ("seed: 1\n", "source: is required"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe(path)


@pytest.mark.parametrize(
    ("file", "name"),
    [("noise.yaml", "noise"), ("my first try.yml", "my-first-try"), ("été.yaml", "t"), (f"{'x' * 200}.yaml", "x" * 96)],
)
def test_a_recipe_without_a_name_has_that_of_its_file(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text(MINIMAL)
    assert load_recipe(tmp_path / file).name == name == name_of_file(Path(file))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bad.yaml: this is not a text file in UTF-8, so it is not a recipe"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="the name of the recipe is empty"):
        load_recipe("")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean quickstart?"):
        load_recipe("quikstart")


def test_the_published_recipe_has_no_local_path(tmp_path: Path, file: Path) -> None:
    (tmp_path / "pictures").mkdir()
    loaded = load_recipe(file, ["source.builtin=null", f"source.path={tmp_path}/pictures"])
    text = to_yaml(config.published(loaded))
    assert str(tmp_path) not in text and "path: pictures" in text and "cpu_threads" not in text


def test_the_schema_contains_every_section() -> None:
    schema = TypeAdapter(Recipe).json_schema()
    assert set(schema["properties"]) == set(config.as_dict(load_recipe("quickstart")))
