"""The command `recipe`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import OVERRIDE, Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "topic",
        choices=("show", "schema", "protocols", "reference"),
        metavar="TOPIC",
        help="show: a recipe with all fields filled in, and its fingerprint; schema: the JSON schema; protocols: "
        "shipped evaluation protocols; reference: all fields and their meaning, as Markdown",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE_OR_RUN", help="for show: what to show")
    parser.add_argument("overrides", nargs="*", default=[], metavar=OVERRIDE, help="for show: fields to change")


def _run(arguments: Namespace) -> None:
    from srel_hub.config import as_dict, fingerprint, load_recipe
    from srel_hub.config.json_schema import schema_text
    from srel_hub.config.recipe_files import find_recipe, first_comment, protocol_names
    from srel_hub.config.reference import reference
    from srel_hub.config.yaml_io import to_yaml
    from srel_hub.errors import UserError

    topic: str = arguments.topic
    path: str | None = arguments.recipe
    if topic == "show":
        if path is None:
            raise UserError("recipe show: the recipe is missing; type, for example, srel-hub recipe show quickstart")
        recipe = load_recipe(find_recipe(path), arguments.overrides)  # as written, also in a renamed run directory
        print(f"# fingerprint {fingerprint(recipe)}\n{to_yaml(as_dict(recipe))}", end="")
        return
    if path is not None:
        raise UserError(f"recipe {topic}: takes no further argument, got {path}; remove it")
    if topic == "schema":
        print(schema_text(), end="")
    elif topic == "protocols":
        print("\n".join(f"{name:<12} {first_comment(name)}" for name in protocol_names()))
    else:
        print(reference(), end="")


RECIPE = Command(
    name="recipe",
    group="make",
    summary="Show a complete recipe, or list all fields that it may have",
    description=(
        "Show a recipe with its base, protocol and defaults filled in, or what a recipe may contain: its JSON "
        "schema, the shipped evaluation protocols, and a reference of all fields."
    ),
    examples=(
        ("srel-hub recipe show quickstart recover.ipc=5", "print all fields of a changed recipe"),
        ("srel-hub recipe protocols", "list the shipped evaluation protocols"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
