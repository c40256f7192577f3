"""The command `continual`."""

from argparse import ArgumentParser, Namespace

from srel_hub.commands.command import Command, add_recipe


LABELS = ("step", "seen", "all")


def _add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps in which classes arrive (default: 5)")
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default="seen",
        metavar="|".join(LABELS),
        help="what soft labels know about future classes (default: seen). step: nothing, a teacher is trained at "
        "every step; seen: the run's teacher, only its logits of classes seen so far; all: all of its logits",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings per memory (default: 3)")
    parser.add_argument(
        "--order", type=int, default=0, metavar="SEED", help="seed of the order of classes (default: 0)"
    )


def _run(arguments: Namespace) -> None:
    from srel_hub.runs.stage_cli import cli
    from srel_hub.studies.continual.protocol import Setting
    from srel_hub.studies.continual.study import continual

    setting = Setting(arguments.steps, arguments.labels, arguments.seeds, arguments.order)
    cli(lambda run: continual(run, setting), [arguments.recipe, *arguments.overrides])


CONTINUAL = Command(
    name="continual",
    group="study",
    summary="Measure condensed images as the memory of a continual learner",
    description=(
        "Measure condensed images as the memory of a class-incremental learner: classes arrive in steps, and after "
        "each step a student is trained from scratch on the memory alone (GDumb). Random real images of the same "
        "number are the baseline. Needs a run with recovered images; writes continual/ in the run directory."
    ),
    examples=(
        ("srel-hub continual runs/quickstart --steps 5", "let 10 classes arrive in 5 steps"),
        ("srel-hub continual runs/cifar10_ipc10 --labels all --seeds 3", "use the teacher's logits of all classes"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
