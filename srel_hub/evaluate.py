"""Run the stage evaluate alone, in several processes: `accelerate launch -m srel_hub.evaluate RECIPE_OR_RUN`."""

from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli
from srel_hub.stages.evaluate.summary import results_table
from srel_hub.stages.pipeline import evaluate
from srel_hub.storage.files import read_json


def evaluate_and_print(run: Run) -> None:
    """Train and score students, and print the results."""
    folder = evaluate(run)
    if run.is_main:
        print("\n".join(results_table(read_json(folder / "summary.json"))))


if __name__ == "__main__":
    cli(evaluate_and_print)
