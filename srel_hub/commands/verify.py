"""The command `verify`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="REPO_OR_FOLDER", help="org/name on the Hub, or a dataset's folder")
    parser.add_argument("--revision", metavar="REF", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--fast", action="store_true", help="download no labels")


def _run(arguments: Namespace) -> int:
    import datasets
    from tqdm import tqdm

    from srel_hub.labels.verify import verify

    datasets.disable_progress_bars()
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
        "No code from the dataset is run, and no pickle is read."
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
        "2": "there is no condensed dataset at this path or revision",
    },
)
