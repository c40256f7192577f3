"""Run the relabel stage alone: `accelerate launch -m srel_hub.relabel RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.relabel import relabel


if __name__ == "__main__":
    cli(relabel)
