"""The command `inspect`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from srel_hub.commands.command import Command


if TYPE_CHECKING:
    from srel_hub.config import Source

DIGITS = "digits"
EVAL_SPLITS = ("test", "validation", "valid", "val", "eval", "dev")  # names that an eval split goes by


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a local folder, org/name of a dataset on the Hub, or digits")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="source.key=value",
        help="a field of the source to set, for example source.label_column=fine_label or source.eval_split=val",
    )
    parser.add_argument("--all", action="store_true", help="list every class, and read the header of every image")


def _run(arguments: Namespace) -> int:
    import sys

    import datasets
    from tqdm import tqdm

    from srel_hub.data.overview import look_at, overview_lines
    from srel_hub.data.sources import open_source

    def progress(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
        return iter(tqdm(items, title, total, unit=f" {unit}", leave=False, disable=None))

    datasets.disable_progress_bars()
    spec, remarks = _source(arguments.path, arguments.overrides)
    source = open_source(spec, progress)
    overview = look_at(source, spec, progress, arguments.all)
    print("\n".join(overview_lines(overview, arguments.all)))
    for remark in remarks:
        print(f"  note: {remark}")
    if overview.unreadable:
        count = len(overview.unreadable)
        print(f"error: {count:,} image{'s' if count > 1 else ''} cannot be read; see the table", file=sys.stderr)
        return 2
    return 0


def _source(path: str, overrides: list[str]) -> "tuple[Source, list[str]]":
    """Return the source section, with the splits that the dataset has, and remarks.

    Raises:
        UserError: for fields that are not of the source, and for values that they may not have.
    """
    from dataclasses import replace

    from srel_hub.config import Source
    from srel_hub.data.sources import split_names
    from srel_hub.data.split_folders import find_split

    spec = _section(path, overrides)
    if spec.builtin is not None:
        return spec, []
    given = {override.partition("=")[0].removeprefix("source.") for override in overrides}
    names = split_names(spec)
    defaults = Source(path=path)
    train, evaluation = spec.train_split, spec.eval_split
    if "train_split" not in given and train == defaults.train_split and train not in names:
        train = None if "eval_split" in given or len(names) > 1 else names[0]
    if "eval_split" not in given and evaluation == defaults.eval_split and find_split(names, "test") is None:
        evaluation = next((name for name in EVAL_SPLITS if name in names and name != train), None)
    remarks = []
    if evaluation is None and "eval_split" not in given:
        remarks.append(
            "there is no split to score students on; set source.eval_fraction=0.2 to split off a fifth of the training "
            "images, or source.eval_split=null to skip the evaluation"
        )
    if train is None and "train_split" not in given:
        remarks.append(f"there is no split named train (splits: {', '.join(names)}); set source.train_split=NAME")
    return replace(spec, train_split=train, eval_split=evaluation), remarks


def _section(path: str, overrides: list[str]) -> "Source":
    from pathlib import Path

    from srel_hub.config import validated
    from srel_hub.errors import UserError

    others = [override for override in overrides if not override.startswith("source.")]
    if others:
        raise UserError(f"{others[0]}: only source.key=value is allowed here")
    place = {"builtin": DIGITS} if path == DIGITS and not Path(path).exists() else {"path": path}
    mapping = {"name": "inspect", "source": place, "recover": {"ipc": 1}, "squeeze": {"pretrained": "any"}}
    return validated(mapping, overrides, path).source


INSPECT = Command(
    name="inspect",
    group="make",
    summary="Show the splits, classes, counts and sizes of a dataset",
    description=(
        "Show how a dataset is read: its splits and classes, the number of images of each, their sizes and modes, and "
        "all files that are not read, with the reason. Decodes no image and writes nothing. plan and condense print "
        "the same table before a run."
    ),
    examples=(
        ("srel-hub inspect my/flowers", "show a folder of images"),
        ("srel-hub inspect uoft-cs/cifar100 source.label_column=fine_label --all", "show a dataset on the Hub"),
    ),
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={"2": "the dataset cannot be used as it is; the message says what to change"},
)
