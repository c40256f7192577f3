"""The command `plan`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import Command, add_recipe


def _add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--devices", type=int, metavar="N", help="number of GPUs or processes that share the work")
    parser.add_argument(
        "--device-tflops",
        type=float,
        metavar="X",
        help="TFLOP/s that each of them sustains in the run's precision (default: estimated on this machine)",
    )


def _run(arguments: Namespace) -> None:
    from srel_hub.runs.stage_cli import named
    from srel_hub.studies.plan.run_plan import plan_recipe
    from srel_hub.studies.plan.text import plan_lines

    recipe = named(arguments.recipe, arguments.overrides)
    print("\n".join(plan_lines(plan_recipe(recipe, arguments.devices, arguments.device_tflops))))


PLAN = Command(
    name="plan",
    group="make",
    summary="Print what a run will cost: images, bytes, memory, hours",
    description=(
        "Print what a run will cost before it starts: images, bytes of images and labels, and the FLOPs, memory and "
        "hours of each stage. Checks the recipe against the data, as condense does. Writes nothing."
    ),
    examples=(
        ("srel-hub plan recipes/quickstart.yaml", "the cost of the quickstart on this machine"),
        (
            "srel-hub plan recipes/in1k_ipc50.yaml --devices 8 --device-tflops 60",
            "the cost of ImageNet-1K on 8 GPUs that sustain 60 TFLOP/s each",
        ),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
