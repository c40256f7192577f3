"""The command `report`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from srel_hub.commands.command import Command
from srel_hub.commands.output_files import Output, check_outputs


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN_OR_DATASET", help="a run, a dataset's folder, or org/name on the Hub")
    parser.add_argument("--revision", metavar="REF", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: report.html, in the run or here)")


def _run(arguments: Namespace) -> None:
    from srel_hub.reports.html import report_file, write_report
    from srel_hub.storage.files import format_bytes

    file = arguments.out or report_file(arguments.path)
    check_outputs(Output("--out", file, (".html", ".htm")))
    write_report(arguments.path, arguments.revision, file)
    print(f"{file} ({format_bytes(file.stat().st_size)})")


REPORT = Command(
    name="report",
    group="publish",
    summary="Write one HTML page about a dataset: results, images, labels",
    description=(
        "Write one HTML page about a condensed dataset: results with their baselines, images by class with crops and "
        "soft labels, pictures, sizes, recipe and provenance. The page is one file that opens offline."
    ),
    examples=(
        ("srel-hub report runs/quickstart", "write runs/quickstart/report.html"),
        ("srel-hub report my-name/digits-ipc10 --out digits.html", "write a page about a dataset on the Hub"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
