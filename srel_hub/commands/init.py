"""The command `init`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from srel_hub.commands.command import Command
from srel_hub.commands.output_files import Output, check_outputs


if TYPE_CHECKING:
    from srel_hub.config import Source

METHODS = ("best", "sre2l")


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder of images, or org/name of a dataset on the Hub")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="source.key=value",
        help="a field of the source to set, for example source.label_column=fine_label or source.image_size=64",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the recipe (default: PATH's last part, .yaml, here)")
    parser.add_argument("--force", action="store_true", help="overwrite the file if it exists")
    parser.add_argument(
        "--hours", type=float, metavar="H", help="time budget on one device (default: 2 on a CPU, 8 on a GPU)"
    )
    parser.add_argument(
        "--ipc", type=int, metavar="N", help="images per class (default: a tenth of the smallest class, at most 10)"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="best",
        metavar="best|sre2l",
        help="best starts from crops of real images (default); sre2l starts from noise, so no real pixel remains",
    )


def _run(arguments: Namespace) -> None:
    import math
    import sys

    import datasets

    from srel_hub.errors import ErrorCollector, UserError
    from srel_hub.storage.files import write_text
    from srel_hub.studies.plan.text import format_hours
    from srel_hub.studies.suggest.look import find_splits, look
    from srel_hub.studies.suggest.suggest import suggest
    from srel_hub.studies.suggest.text import run_name

    problems = ErrorCollector()
    for option, value in (("--hours", arguments.hours), ("--ipc", arguments.ipc)):
        if value is not None and not 0 < value < math.inf:
            problems.extend([f"{option}={value}: must be a number above 0"])
    problems.raise_all()
    spec = _source(arguments.path, arguments.overrides)
    file: Path = arguments.out or Path(f"{run_name(spec)}.yaml")
    check_outputs(Output("--out", file, (".yaml", ".yml")))
    if file.exists() and not arguments.force:
        raise UserError(f"{file}: already exists; pass --force to overwrite it, or --out FILE to write another file")
    datasets.disable_progress_bars()
    spec = find_splits(spec, {override.partition("=")[0].removeprefix("source.") for override in arguments.overrides})
    data, remarks = look(spec)
    for remark in remarks:
        print(remark, file=sys.stderr)
    found = suggest(spec, data, str(file), arguments.method, arguments.ipc, arguments.hours)
    write_text(file, found.text)
    print("\n".join(line for line in found.text.splitlines() if line.startswith("#")))
    print(f"\nwritten: {file} ({found.choice.title}, about {format_hours(found.plan.hours)})")


def _source(path: str, overrides: list[str]) -> "Source":
    """Return the source section, with the user's fields set.

    Raises:
        UserError: for other fields, and for values that they may not have.
    """
    from srel_hub.config import validated
    from srel_hub.errors import UserError

    others = [override for override in overrides if not override.startswith("source.")]
    if others:
        raise UserError(f"{others[0]}: only source.key=value is allowed here; change other fields in the recipe file")
    mapping = {"name": "init", "source": {"path": path}, "recover": {"ipc": 1}, "squeeze": {"pretrained": "any"}}
    return validated(mapping, overrides, path).source


INIT = Command(
    name="init",
    group="make",
    summary="Write a recipe that suits your images and this machine",
    description=(
        "Look at a dataset and at this machine, and write a recipe with a suitable image size, network, method and "
        "budget, its estimated time, and the reason for each value. The images are sampled, so large folders take no "
        "longer than load_dataset needs to list them."
    ),
    examples=(
        ("srel-hub init my/flowers", "write flowers.yaml for a folder with train/CLASS/ and test/CLASS/"),
        (
            "srel-hub init uoft-cs/cifar100 source.label_column=fine_label --hours 12 --out cifar.yaml",
            "write cifar.yaml for a dataset on the Hub, for a run of at most 12 hours",
        ),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
