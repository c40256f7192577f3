"""Run the stage evaluate alone, in several processes: `accelerate launch -m srel_hub.evaluate RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.pipeline import evaluate, evaluate_and_print


__all__ = ["evaluate"]

if __name__ == "__main__":
    cli(evaluate_and_print)
