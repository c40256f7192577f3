"""Run the stage squeeze alone, in several processes: `accelerate launch -m srel_hub.squeeze RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.pipeline import squeeze


__all__ = ["squeeze"]

if __name__ == "__main__":
    cli(squeeze)
