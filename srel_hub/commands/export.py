"""The command `export`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from srel_hub.commands.command import Command
from srel_hub.commands.output_files import Output, check_outputs


LAYOUTS = ("ddranking", "rethinkdc")
DATASETS = ("CIFAR10", "CIFAR100", "TinyImageNet", "ImageNet1K", "ImageNette", "ImageWoof")  # ddranking's names


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="DATASET", type=Path, help="a dataset's folder")
    parser.add_argument("layout", choices=LAYOUTS, metavar="LAYOUT", help=f"one of {', '.join(LAYOUTS)}")
    parser.add_argument("target", metavar="FOLDER", type=Path, help="a new folder; it must not exist")
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        metavar="NAME",
        help=f"needed for ddranking: its name of the real dataset, one of {', '.join(DATASETS)}",
    )


def _run(arguments: Namespace) -> None:
    from srel_hub.reports.export import export_dataset

    check_outputs(Output("FOLDER", arguments.target, suffixes=()))
    export_dataset(arguments.source, arguments.layout, arguments.target, arguments.dataset)
    print(
        f"{arguments.target}: written in the layout that {arguments.layout} documents; not tested with "
        f"{arguments.layout}"
    )


EXPORT = Command(
    name="export",
    group="use",
    summary="Write a dataset in the layout of another evaluation tool",
    description=(
        "Write a condensed dataset in the layout that another evaluation tool documents: rethinkdc 0.3.2 (a dataset "
        "with the columns image and label) or ddranking 0.2.0 (a folder of images, the teacher and a configuration). "
        "Neither tool is run."
    ),
    examples=(
        ("srel-hub export runs/quickstart/dataset rethinkdc exported/rethinkdc", "export for rethinkdc"),
        (
            "srel-hub export runs/cifar10_ipc10/dataset ddranking exported/ddranking --dataset CIFAR10",
            "export for DD-Ranking",
        ),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
