"""The command `compare`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from srel_hub.commands.command import Command
from srel_hub.commands.output_files import Output, check_outputs


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="RUN_OR_REPO", nargs="+", help="a run, a dataset's folder, or org/name on the Hub"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all results as CSV")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also plot accuracy over images and label bytes; the suffix is the format: .png, .svg, .pdf, .jpg or "
        ".webp",
    )


def _run(arguments: Namespace) -> None:
    from srel_hub.reports.compare import compare, plot, table, write_csv
    from srel_hub.reports.plot_style import SUFFIXES, require_matplotlib

    check_outputs(Output("--csv", arguments.csv, (".csv",), in_place=True), Output("--plot", arguments.plot, SUFFIXES))
    if arguments.plot:
        require_matplotlib()
    compared = compare(arguments.paths)
    print("\n".join(table(compared.results)))
    if compared.not_evaluated:
        print("\nnot evaluated:")
        print("\n".join(f"  {reason}" for reason in compared.not_evaluated))
    if arguments.csv:
        write_csv(compared.results, arguments.csv)
    if arguments.plot:
        plot(compared.results, arguments.plot)


COMPARE = Command(
    name="compare",
    group="use",
    summary="Print the results of several datasets side by side",
    description=(
        "Print the results of condensed datasets side by side. Results of different protocols never share a column: "
        "a protocol is everything that decides how a student is trained and scored. Runs that are not evaluated are "
        "listed below the table."
    ),
    examples=(
        ("srel-hub compare runs/one runs/two", "compare two runs"),
        ("srel-hub compare runs/one org/name --csv all.csv --plot all.png", "also write a CSV file and a plot"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
