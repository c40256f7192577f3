"""The command `measure`."""

import argparse
import json
from pathlib import Path

from srel_hub.commands.command import Command
from srel_hub.commands.output_files import Output, check_outputs


NETWORKS = ("convnet", "resnet18", "resnet50")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "networks",
        nargs="*",
        default=NETWORKS,
        metavar="MODEL[:WIDTH]",
        help=f"a network as in a recipe, or a Hub id (default: {' '.join(NETWORKS)})",
    )
    parser.add_argument("--size", type=int, default=64, metavar="N", help="side of the images in pixels (default: 64)")
    parser.add_argument(
        "--batch", type=int, default=100, metavar="N", help="images at a time, of different classes (default: 100)"
    )
    parser.add_argument("--classes", type=int, default=200, metavar="N", help="classes of the network (default: 200)")
    parser.add_argument(
        "--iterations", type=int, default=10, metavar="N", help="timed iterations, after a warm-up (default: 10)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "auto"),
        default="auto",
        metavar="float32|bfloat16|auto",
        help="what networks compute in (default: auto, the fastest that this device supports)",
    )
    parser.add_argument("--compile", action="store_true", help="compile the network, as run.compile=true does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a JSON file")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in this process, as JSON


def _run(arguments: argparse.Namespace) -> None:
    from srel_hub.core.engine import best_precision
    from srel_hub.storage.files import write_json
    from srel_hub.studies.measure import Settings, measure_all, measure_here, report_lines

    file: Path | None = arguments.json
    check_outputs(Output("--json", file, (".json",)))
    settings = Settings(
        networks=arguments.networks,
        size=arguments.size,
        batch=arguments.batch,
        classes=arguments.classes,
        iterations=arguments.iterations,
        precision=best_precision() if arguments.precision == "auto" else arguments.precision,
        compile=arguments.compile,
    )
    if arguments.alone:
        print(json.dumps(measure_here(settings.networks[0], settings)))
        return
    figures = measure_all(settings)
    if file is not None:
        write_json(file, figures)
    print("\n".join(report_lines(figures)))


MEASURE = Command(
    name="measure",
    group="study",
    summary="Measure time and memory of a recover iteration by network",
    description=(
        "Measure what one iteration of recover costs on this device, by network: milliseconds per image and peak "
        "memory, beside the figures of the SRe2L paper. Networks have random weights. Each is measured in its own "
        "process."
    ),
    examples=(
        ("srel-hub measure", "measure the paper's three networks at 64 x 64 pixels"),
        (
            "srel-hub measure resnet18:0.5 mobilenet_v2 --size 32 --batch 10 --classes 10 --json cost.json",
            "measure two networks at 32 x 32 pixels",
        ),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
