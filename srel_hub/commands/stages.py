"""The commands that run stages: condense, squeeze, recover, relabel, evaluate, pictures and publish."""

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from srel_hub.commands.command import Command, add_recipe


if TYPE_CHECKING:
    from srel_hub.runs.run import Run


def _run(stage: "Callable[[Run], object]", arguments: Namespace) -> None:
    """Run a stage; a failure exits with its status."""
    from srel_hub.runs.stage_cli import cli

    cli(stage, [arguments.recipe, *arguments.overrides])


def _condense(arguments: Namespace) -> None:
    from srel_hub.condense import condense

    _run(condense, arguments)


def _squeeze(arguments: Namespace) -> None:
    from srel_hub.stages.pipeline import squeeze

    _run(squeeze, arguments)


def _recover(arguments: Namespace) -> None:
    from srel_hub.stages.pipeline import recover

    _run(recover, arguments)


def _relabel(arguments: Namespace) -> None:
    from srel_hub.stages.pipeline import relabel

    _run(relabel, arguments)


def _evaluate(arguments: Namespace) -> None:
    from srel_hub.stages.pipeline import evaluate_and_print

    _run(evaluate_and_print, arguments)


def _publish(arguments: Namespace) -> None:
    from srel_hub.reports.publish import publish

    _run(publish, arguments)


def _pictures(arguments: Namespace) -> None:
    from srel_hub.reports.run_pictures import draw_and_print

    _run(draw_and_print, arguments)


CONDENSE = Command(
    name="condense",
    group="make",
    summary="Run all stages: squeeze, recover, relabel, evaluate",
    description=(
        "Condense a dataset: run squeeze, recover, relabel and evaluate, and write the dataset and its card to the "
        "run directory. Finished units of work are kept, so the same command resumes an interrupted run. "
        "Several GPUs or machines share one run: accelerate launch -m srel_hub.condense RECIPE_OR_RUN."
    ),
    examples=(
        ("srel-hub condense recipes/quickstart.yaml", "condense 1,797 handwritten digits on a CPU in about a minute"),
        (
            "srel-hub condense recipes/cifar10_ipc10.yaml recover.iterations=200",
            "condense CIFAR-10 with fewer iterations than the recipe has",
        ),
    ),
    add_arguments=add_recipe,
    run=_condense,
)
SQUEEZE = Command(
    name="squeeze",
    group="make",
    summary="Train the teacher, or adopt a pretrained one",
    description=(
        "Run the first stage alone: train the teacher network on the real images, or adopt the pretrained network "
        "that the recipe names, and score it on the eval split. Writes teacher/ in the run directory."
    ),
    examples=(
        ("srel-hub squeeze recipes/quickstart.yaml", "train the teacher of the quickstart"),
        ("srel-hub squeeze recipes/quickstart.yaml squeeze.epochs=20", "train it for 20 epochs"),
    ),
    add_arguments=add_recipe,
    run=_squeeze,
)
RECOVER = Command(
    name="recover",
    group="make",
    summary="Optimize the condensed images",
    description=(
        "Run the second stage alone: optimize images until the teacher's predictions and BatchNorm statistics match "
        "those of real images. Needs the teacher that squeeze writes. Writes images/ in the run directory."
    ),
    examples=(
        ("srel-hub recover runs/quickstart", "optimize the images of a run that has a teacher"),
        ("srel-hub recover recipes/quickstart.yaml recover.ipc=5", "make 5 images per class"),
    ),
    add_arguments=add_recipe,
    run=_recover,
)
RELABEL = Command(
    name="relabel",
    group="make",
    summary="Store the teacher's soft labels of augmented images",
    description=(
        "Run the third stage alone: draw the augmented views of every epoch, and store the teacher's soft label of "
        "each view. Needs the images that recover writes. Writes soft_labels/ in the run directory."
    ),
    examples=(
        ("srel-hub relabel runs/quickstart", "label the images of a run"),
        ("srel-hub relabel runs/quickstart relabel.encoding=uint8", "store labels in fewer bytes"),
    ),
    add_arguments=add_recipe,
    run=_relabel,
)
EVALUATE = Command(
    name="evaluate",
    group="make",
    summary="Train students on the condensed images and score them",
    description=(
        "Run the fourth stage alone: train students from scratch on the condensed images and on random real images, "
        "and score them on the eval split. Needs the labels that relabel writes. Writes evaluate/ in the run "
        "directory and prints the table of results."
    ),
    examples=(
        ("srel-hub evaluate runs/quickstart", "evaluate a run"),
        ("srel-hub evaluate runs/quickstart evaluate.seeds=5", "train five students for each row"),
    ),
    add_arguments=add_recipe,
    run=_evaluate,
)
PUBLISH = Command(
    name="publish",
    group="publish",
    summary="Push the dataset and its teacher to the Hub",
    description=(
        "Push a finished run to the Hugging Face Hub: the teacher to a model repository, then the dataset, which "
        "names the teacher's revision. The plan of the push is printed first. Repositories are private unless the "
        "recipe sets publish.private=false. An interrupted push is resumed by the same command."
    ),
    examples=(
        (
            "srel-hub publish runs/quickstart publish.repo_id=my-name/digits-ipc10 publish.dry_run=true",
            "print what would be pushed",
        ),
        ("srel-hub publish runs/quickstart publish.repo_id=my-name/digits-ipc10", "push it"),
    ),
    add_arguments=add_recipe,
    run=_publish,
)
PICTURES = Command(
    name="pictures",
    group="publish",
    summary="Draw the pictures of the card: images, loss curves, t-SNE",
    description=(
        "Draw the pictures that the dataset's card shows: condensed images, how they changed during recover, the "
        "teacher's features, and the students' accuracy. condense draws them too. Needs pip install 'srel_hub[viz]'. "
        "Writes pictures/ in the run directory."
    ),
    examples=(
        ("srel-hub pictures runs/quickstart", "draw the pictures of a run"),
        ("srel-hub pictures runs/quickstart pictures=true", "draw them for a recipe with pictures=false"),
    ),
    add_arguments=add_recipe,
    run=_pictures,
)
