"""Messages about a wrong recipe: every field, in our own words, all together, with the value and what is allowed."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from srel_hub.config import RecipeError, load_recipe, read_recipe, validated
from srel_hub.config.arguments import ineffective, override_texts
from srel_hub.config.json_schema import types_schema
from srel_hub.errors import UserError


OF_PYDANTIC = re.compile(
    r"[Ii]nput|valid (string|number|int|bool)|tuple|constrained|function|literal|dataclass|str_|None"
)
WRONG = ("{a: {b: 1}}", "[[[]]]", "-1e9")


def dotted_fields(schema: Mapping[str, Any], node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all fields, looking inside sections that may be null."""
    options = [node, *node.get("anyOf", ())]
    options += [schema["$defs"][option["$ref"].split("/")[-1]] for option in options if "$ref" in option]
    for option in options:
        for name, field in option.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from dotted_fields(schema, field, f"{prefix}{name}.")


FIELDS = list(dict.fromkeys(dotted_fields(types_schema(), types_schema())))


def messages(*overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quickstart", list(overrides))
    return caught.value.messages


def test_every_field_has_a_message_of_our_own_with_the_value() -> None:
    assert len(FIELDS) > 100
    mapping = read_recipe("quickstart")
    for value in WRONG:
        for field in FIELDS:
            try:
                validated(mapping, [f"{field}={value}"], "quickstart")
            except RecipeError as error:
                for line in error.messages:
                    assert line.split(":")[0].startswith(field.split(".")[0]), (field, value, line)
                    assert not OF_PYDANTIC.search(line), (field, value, line)
                    assert re.search("got|must|unknown field|required|set |remove ", line), (field, value, line)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recover.lr=fast", "recover.lr: must be a number above 0, got 'fast'"),
        ("seed=1.5", "seed: must be a whole number of at least 0, got 1.5"),
        ("recover.residual=1", "recover.residual: must be a number of at least 0 and below 1, got 1"),
        ("recover.bn_weight=outo", "must be a number of at least 0 or auto, got 'outo'; did you mean auto?"),
        ("recover.sizes=32", "must be a list of values, each a whole number from 1 to 32767, got 32; write [32]"),
        ("recover.sizes=[32, x]", "recover.sizes.1: must be a whole number from 1 to 32767, got 'x'"),
        ("relabel.augment.scale=[0.5]", "must be a list of 2 values, each a number above 0, got [0.5]"),
        ("recover.ratio=[0.1, 0.2, 0.3]", "must be a list of 2 values, each a number above 0, got [0.1, 0.2, 0.3]"),
        ("evaluate.students=[]", "evaluate.students: must be a list of at least 1 value, each a section"),
        ("evaluate.loss=KLL", "evaluate.loss: must be one of kl, mse, hard, got 'KLL'; did you mean kl?"),
        ("recover.patches={keep: Median}", "keep: must be easiest or median, got 'Median'; did you mean median?"),
        ("squeeze.network=resnet18", "(a mapping of fields to values), got 'resnet18'; write {model: resnet18}"),
        ("evaluate.students=convnet", "got 'convnet'; write [{model: convnet}]"),
        ("evaluate.students={model: convnet, width: 2}", "; write [{model: convnet, width: 2}]"),
        ("recover.teachers=org/net", "got 'org/net'; write [{path: org/net}]"),
        ("evaluate.cooling=7", "evaluate.cooling: must be a section (a mapping of fields to values) or null, got 7"),
        ("pictures=ture", "pictures: must be true or false, got 'ture'; did you mean true?"),
        ("relabel.encoding=null", "relabel.encoding: must be one of float16, uint8, topk, none, got null"),
        ("name=a b", "name: must be a name of letters, digits, '.', '_' and '-' that begins with a letter or a digit"),
        ("publish.tag=a..b", "publish.tag: must be a name of letters, digits, '_' and '-' that begins"),
        ("run.trackers=[wandbb]", "must be one of trackio, tensorboard, wandb, got 'wandbb'; did you mean wandb?"),
        ("evaluate.students=[{modle: convnet}]", "students.0.modle: unknown field; did you mean model? Allowed: "),
        ("squeeze.iterations=4", "squeeze.iterations: unknown field; did you mean recover.iterations? Allowed: "),
        ("recover.epochs=4", "did you mean squeeze.epochs or relabel.epochs or evaluate.epochs?"),
        ("zzz=4", "zzz: unknown field; allowed: name, seed, "),
        ("source={}", "source: exactly one of source.path"),
        ("recover={lr: 0.1}", "recover.ipc: is required; add it to the recipe"),
        ("evaluate.students.0.width=3", "evaluate.students is a list, whose items cannot be set one by one"),
        ("recover.lr.x=3", "recover.lr.x: recover.lr is not a section, but 0.1; set recover.lr itself"),
        ("recover.ipc={a: 1, a: 2}", "duplicate key 'a' in line 1; remove one of them"),
        ("squeeze.epochs=2024-13-01", "the value is not valid YAML (month must be in 1..12)"),
        ("squeeze.epochs=" + 500 * "[", "the value is not valid YAML (brackets are nested too deeply)"),
        ("squeeze.epochs=" + 5000 * "9", "the value is not valid YAML (Exceeds the limit"),
        (".ipc=5", "'.ipc=5': an override is key=value"),
        ("recover.=5", "'recover.=5': an override is key=value"),
        ("squeeze.epochs=!!int x", "the value is not valid YAML (invalid literal"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_the_message_has_the_field_the_value_what_is_allowed_and_the_fix(override: str, message: str) -> None:
    found = messages(override)
    assert any(message in line for line in found), found


def test_a_field_of_a_teacher_may_be_added_to_its_path_only_if_the_path_is_named() -> None:
    found = messages("squeeze.pretrained=org/net", "squeeze.pretrained.class_names=[a, b]")
    assert "write the former as squeeze.pretrained.path=org/net" in found[0]
    recipe = load_recipe("quickstart", ["squeeze.pretrained.path=org/net", "squeeze.pretrained.class_names=[a, b]"])
    assert recipe.squeeze.pretrained is not None and recipe.squeeze.pretrained.class_names == ("a", "b")


def test_a_field_of_a_section_that_is_null_can_be_set() -> None:
    recipe = load_recipe("quickstart", ["recover.patches=null", "recover.patches.tiles=2", "evaluate.cooling.every=7"])
    assert recipe.recover.patches is not None and recipe.recover.patches.tiles == 2
    assert recipe.evaluate.cooling is not None and recipe.evaluate.cooling.every == 7


def test_long_values_are_cut() -> None:
    (line,) = messages(f"recover.lr={'x' * 5000}")
    assert len(line) < 400 and line.endswith(" ...")


# Overrides as arguments


def test_overrides_are_a_mapping_or_a_list_of_strings() -> None:
    assert override_texts({"recover.ipc": np.int64(5), "recover.lr": np.float32(0.5), "source.title": "a"}) == [
        "recover.ipc=5",
        "recover.lr=0.5",
        'source.title="a"',
    ]
    assert override_texts(("a=1", "b=2")) == ["a=1", "b=2"]
    assert load_recipe("quickstart", {"recover.ipc": 5}) == load_recipe("quickstart", ["recover.ipc=5"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (5, "overrides=5: must be a mapping such as {'recover.ipc': 5}, or a list of strings"),
        ("recover.ipc=5", "overrides='recover.ipc=5': must be a mapping"),
        (b"x", "got bytes"),
        (None, "overrides=None: must be a mapping"),
        ([5], "overrides: 5 is a int; overrides must be a mapping"),
        ([("recover.ipc", 5)], "is a tuple"),
        ({5: 1}, "the key 5 must be a field's name, such as 'recover.ipc'"),
        ({"recover.ipc": object()}, "must be a number, a string, a path, None, or a list or mapping of these"),
        ({"recover.lr": float("nan")}, "recover.lr=nan: must be a number"),
    ],
)
def test_overrides_of_another_type_are_refused(overrides: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe("quickstart", overrides)


@pytest.mark.parametrize("path", [None, 5, b"quickstart", {"recover": {}}, ["quickstart"]])
def test_a_recipe_is_named_by_a_string_or_a_path(path: Any) -> None:
    with pytest.raises(UserError, match="must be a string or a path, got .*; pass a YAML file, the name of a shipped"):
        load_recipe(path)


def test_all_overrides_that_have_no_effect_are_named() -> None:
    assert ineffective(["squeeze.network={model: convnet}", "squeeze.network.width=0.5", "recover.ipc=1"]) == []
    assert ineffective(["recover.ipc=1", "recover.ipc=2", "squeeze.epochs=3", "squeeze={}"]) == [
        "recover.ipc is set twice; recover.ipc=1 has no effect, because recover.ipc=2 follows",
        "squeeze={} replaces the whole section, so squeeze.epochs=3 has no effect; put squeeze={} first",
    ]
