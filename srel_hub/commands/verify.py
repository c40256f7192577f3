"""The command `verify`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="REPO_OR_FOLDER", help="org/name on the Hub, or a dataset's folder")
    parser.add_argument("--revision", metavar="REF", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--fast", action="store_true", help="download no labels")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import the code of the teacher's network, a file such as my_net.py that you have read, as my_net",
    )


def _run(arguments: Namespace) -> int:
    import datasets
    from tqdm import tqdm

    from srel_hub.labels.verify import verify
    from srel_hub.teachers.own_code import import_modules

    datasets.disable_progress_bars()
    import_modules(arguments.imports, "--import")
    failed = 0
    for check in verify(arguments.path, arguments.revision, arguments.fast):
        tqdm.write(str(check))
        failed += check.passed is False
    if failed:
        print(f"the dataset is NOT what it claims to be: {failed} check{'s' if failed > 1 else ''} failed")
    else:
        checked = "all checks that --fast runs passed" if arguments.fast else "all checks passed"
        print(f"{checked}: the dataset is what it claims to be")
    return 1 if failed else 0


VERIFY = Command(
    name="verify",
    group="use",
    summary="Check that a dataset is what it claims to be",
    description=(
        "Check a condensed dataset: the sha256 of its files, the card, the images, the teacher and its accuracy, the "
        "class names, the soft labels, and sampled labels computed again by the teacher. Prints one line per check. "
        "No code from the dataset is run, and no pickle is read. A teacher whose network is its author's own code can "
        "be checked only with --import."
    ),
    examples=(
        ("srel-hub verify runs/quickstart/dataset", "check a dataset on disk"),
        ("srel-hub verify org/name --revision v1.0 --fast", "check a tag on the Hub without its labels"),
    ),
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={
        "0": "every check passed",
        "1": "a check failed; or a problem with the machine or the Hub, which `error:` reports",
        "2": "there is no condensed dataset at this path or revision, or its teacher needs --import",
    },
)
