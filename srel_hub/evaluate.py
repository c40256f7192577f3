"""Run the evaluate stage alone: `accelerate launch -m srel_hub.evaluate RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.evaluate.stage import evaluate, main


__all__ = ["evaluate", "main"]

if __name__ == "__main__":
    cli(main)
