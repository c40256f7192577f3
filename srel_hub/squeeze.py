"""Run the squeeze stage alone: `accelerate launch -m srel_hub.squeeze RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.squeeze import squeeze


if __name__ == "__main__":
    cli(squeeze)
