"""Run the stage recover alone, in several processes: `accelerate launch -m srel_hub.recover RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.pipeline import recover


__all__ = ["recover"]

if __name__ == "__main__":
    cli(recover)
