"""The JSON schema of recipe files, with which editors complete, explain and check them.

It is generated from the dataclasses and shipped beside the recipes. After a change of a field, write it again:

    srel-hub recipe schema > recipes/recipe.schema.json
    srel-hub recipe reference > docs/reference/recipe.md

Every shipped file begins with a line such as `# yaml-language-server: $schema=../recipe.schema.json`, which the YAML
extensions of VS Code, Neovim, Emacs and others read. The path is relative to the file. The schema lies in `recipes/`,
not in the package, so that the same path is right in a checkout and in a wheel, where `recipes/` is a folder of the
package. Parts that only other recipes use (`base/`, `protocols/`) refer to `recipe.schema.json#/$defs/Part`, which
requires no field.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from srel_hub.config.recipe import recipe_adapter


DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:srel-hub:recipe"
EXTENDS = {
    "description": "Recipe to build on: a file relative to this one, or the name of a shipped recipe. Its values "
    "apply where this file has none.",
    "type": "string",
}
SWEEP = {
    "description": "Axes of a table of runs, for `srel-hub sweep`. Either a field's dotted name with a list of "
    "values, or a title with named points, each of which sets fields by their dotted names.",
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            {"type": "array", "minItems": 1},
            {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object"}},
        ]
    },
}

IPC = {"recover": {"if": {"not": {"required": ["images"]}}, "then": {"required": ["ipc"]}}}  # as Recover checks it


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        # 'Train Split' says no more than 'train_split', and editors would show it first.
        return False

    def get_default_value(self, schema: Any) -> Any:
        # pydantic leaves out the defaults of fields that are sections.
        factory = schema.get("default_factory")
        return factory() if factory else super().get_default_value(schema)

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(_changes(dft))


def _changes(value: Any) -> Any:
    """Replace each section by a mapping of the values that differ from the section's defaults."""
    if isinstance(value, tuple):
        return [_changes(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {field.name: item for field, item in pairs if field.default not in (dataclasses.MISSING, item)}


def types_schema() -> dict[str, Any]:
    """Return the JSON schema of a complete recipe, which has no parent to extend.

    Returns:
        Fields of the recipe under `properties`, those of its sections under `$defs`, each with its description, its
        default (of a section: the values that differ from the section's own defaults), bounds and allowed values.
        Descriptions are missing if the package is installed without source files.
    """
    schema = recipe_adapter().json_schema(schema_generator=_Generator)
    schema["required"].remove("name")  # the loader takes it from the file's name
    for section in (schema, *schema["$defs"].values()):
        section["description"] = section["description"].split("\n\nExamples:")[0]  # those are for Python
        for field in section["properties"].values():
            if "description" in field:
                field["description"] = " ".join(field["description"].split())  # as one line
    return schema


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files.

    In contrast to `types_schema`, files may have the keys `extends` and `sweep`, and a file that extends another may
    leave out any field. The schema is a little wider than the types: it does not contain rules between fields.
    """
    part = types_schema()
    sections: dict[str, Any] = part.pop("$defs")
    required = {name: _section(part, sections, name).get("required", []) for name in part.pop("required")}
    for section in sections.values():
        section.pop("required", None)
    part["title"] = "Part of a srel_hub recipe"
    part["properties"] = {"extends": EXTENDS, "sweep": SWEEP, **part["properties"]}
    return {
        "$schema": DIALECT,
        "$id": IDENTIFIER,
        "title": "srel_hub recipe",
        "description": part["description"],
        "allOf": [{"$ref": "#/$defs/Part"}],
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": list(required),
            "properties": {**{name: {"required": fields} for name, fields in required.items() if fields}, **IPC},
        },
        "$defs": {"Part": part, **sections},
    }


def _section(part: Mapping[str, Any], sections: Mapping[str, Any], name: str) -> Any:
    """Return the definition of a field that is a section."""
    return sections[part["properties"][name]["$ref"].rsplit("/", 1)[-1]]


def schema_text() -> str:
    """Return the text of `recipes/recipe.schema.json`."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
