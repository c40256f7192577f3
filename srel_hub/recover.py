"""Run the recover stage alone: `accelerate launch -m srel_hub.recover RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.recover.stage import recover


if __name__ == "__main__":
    cli(recover)
