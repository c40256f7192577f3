"""The JSON schema of recipe files: complete, equal to the shipped file, and valid for every shipped recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from referencing import Registry, Resource

from srel_hub import config
from srel_hub.config import Recipe, load_recipe
from srel_hub.config.json_schema import recipe_schema, schema_text, types_schema
from srel_hub.config.recipe_files import MODELINE
from srel_hub.config.resources import RECIPES, SCHEMA
from srel_hub.config.yaml_io import Loader
from srel_hub.errors import UserError


FILES = sorted(RECIPES.rglob("*.yaml"))
SCHEMAS = {path.name: json.loads(path.read_text()) for path in RECIPES.glob("*.schema.json")}


def validator(name: str) -> Draft202012Validator:
    """Return a validator of a shipped schema, which may refer to the others by their file names."""
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
    )
    Draft202012Validator.check_schema(SCHEMAS[name])
    return Draft202012Validator(SCHEMAS[name], registry=registry)


def errors_of(name: str, text: str) -> list[str]:
    return [error.message for error in validator(name).iter_errors(yaml.load(text, Loader))]


def test_the_shipped_schema_equals_the_types() -> None:
    assert SCHEMA.read_text() == schema_text()
    printed = subprocess.run([sys.executable, "-m", "srel_hub", "recipe", "schema"], capture_output=True, check=True)
    assert printed.stdout.decode() == schema_text()


def test_every_field_has_a_description() -> None:
    schema = TypeAdapter(Recipe).json_schema()
    fields = [field for section in schema["$defs"].values() for field in section["properties"].values()]
    assert len(fields) >= 119
    for field in (*fields, *schema["properties"].values()):
        assert len(field["description"]) > 10
    for section in recipe_schema()["$defs"].values():
        assert section["description"] and all(field["description"] for field in section["properties"].values())


def test_every_field_has_its_default_and_bounds() -> None:
    schema = types_schema()
    recover, squeeze = schema["$defs"]["Recover"], schema["$defs"]["Squeeze"]
    assert schema["$defs"]["GivenImages"]["required"] == ["path"] and schema["required"] == ["source", "recover"]
    assert recover["properties"]["ipc"]["minimum"] == 0 and recover["properties"]["lr"]["exclusiveMinimum"] == 0
    assert squeeze["properties"]["augment"]["default"] == {"crop": "padded"}
    for section in schema["$defs"].values():
        missing = {name for name, field in section["properties"].items() if "default" not in field}
        assert missing == set(section.get("required", ()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_shipped_file_names_its_schema_and_fits_it(path: Path) -> None:
    parts = path.relative_to(RECIPES).parts
    name = "part.schema.json" if {"base", "protocols"} & set(parts) else SCHEMA.name
    first, *lines = path.read_text().splitlines()
    assert first == f"{MODELINE}$schema={os.path.relpath(RECIPES / name, path.parent).replace(os.sep, '/')}"
    assert lines[0].startswith("# ")
    assert errors_of(name, path.read_text()) == []


def test_complete_recipes_fit_the_schema() -> None:
    for name in ("quickstart", "best/in1k_ipc50", "fadrm/tiny_imagenet_ipc10"):
        assert errors_of(SCHEMA.name, json.dumps(config.as_dict(load_recipe(name)))) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "'source' is a required property"),
        ("source: {builtin: digits}\nrecover: {}", "'ipc' is a required property"),
        ("extends: quickstart\nrecover: {iterations: 0}", "less than the minimum of 1"),
        ("extends: quickstart\nevaluate: {los: kl}", "'los' was unexpected"),
        ("extends: quickstart\nevaluate: {loss: kll}", "is not one of"),
        ("extends: quickstart\nsweep: {seed: []}", "is not valid under any of the given schemas"),
    ],
)
def test_the_schema_finds_mistakes(text: str, message: str) -> None:
    assert any(message in error for error in errors_of(SCHEMA.name, text))


@pytest.mark.parametrize(
    "text",
    [
        "extends: quickstart",
        "extends: quickstart\nrecover: {lr: 1.0e-3}\nsqueeze: {pretrained: org/classifier}",
        "extends: quickstart\nsqueeze: {network: {model: org/other}, pretrained: null}",
        "source: {path: org/data}\nrecover: {ipc: 1, patches: {}, teachers: [org/a, {path: org/b}]}",
        "source: {path: org/data, classes: [ant, 3], eval_fraction: 0.2}\nrecover: {images: org/images}",
        "source: {path: org/data, classes: names.txt}\nrecover: {images: {path: org/images, license: mit}}",
        "extends: quickstart\nsweep: {evaluate.temperature: [1, 4], title: {a: {seed: 1}, b: {seed: 2}}}",
    ],
)
def test_the_schema_accepts_what_files_may_contain(text: str) -> None:
    assert errors_of(SCHEMA.name, text) == []


def test_recipes_validate_without_source_files(tmp_path: Path) -> None:
    """Descriptions come from the sources; without them everything else works."""
    code = (
        "import inspect\n"
        "def refuse(*_): raise OSError('no source')\n"
        "inspect.getsourcelines = refuse\n"
        "from srel_hub.config import load_recipe\n"
        "from srel_hub.config.json_schema import types_schema\n"
        "print(load_recipe('quickstart').recover.ipc, types_schema()['properties']['seed'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "10 {'default': 0, 'minimum': 0, 'type': 'integer'}\n"


def test_an_error_in_the_recipe_names_its_field_once() -> None:
    with pytest.raises(UserError, match="quickstart: the recipe has 1 error\n  recover.ipc: "):
        load_recipe("quickstart", ["recover.ipc=0"])
