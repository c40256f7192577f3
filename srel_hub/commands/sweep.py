"""The command `sweep`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import RECIPE_OR_RUN, Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=f"{RECIPE_OR_RUN}, or a shipped sweep")
    parser.add_argument(
        "arguments",
        nargs="*",
        default=[],
        metavar="AXIS_OR_OVERRIDE",
        help="section.key=value,value,... varies a field; section.key=value changes it at all points; the name of a "
        "shipped sweep adds its axes",
    )


def _run(arguments: Namespace) -> int:
    from srel_hub.studies.sweep.points import read_sweep
    from srel_hub.studies.sweep.report import summary_lines, write_results
    from srel_hub.studies.sweep.run_sweep import run_points, shared_stages

    sweep = read_sweep(arguments.recipe, arguments.arguments)
    status = run_points(sweep)
    if status:
        return status
    print("\n".join(summary_lines(sweep)))
    print(f"stages run: {shared_stages(sweep)}; the other points shared their results")
    for file in write_results(sweep):
        print(f"written: {file}")
    return 0


SWEEP = Command(
    name="sweep",
    group="study",
    summary="Run a recipe at many points that share common stages",
    description=(
        "Run a recipe at all combinations of several values of its fields. A stage that is the same at several "
        "points is run once and shared. Writes a table, a CSV file and a plot beside the runs, in NAME-sweep/. The "
        "same command resumes an interrupted sweep."
    ),
    examples=(
        (
            "srel-hub sweep recipes/quickstart.yaml recover.iterations=100,500 squeeze.epochs=10,60",
            "run four points and compare them",
        ),
        ("srel-hub sweep cifar10_ipc10 temperature", "run a recipe along the axes of a shipped sweep"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
