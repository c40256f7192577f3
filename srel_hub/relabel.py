"""Run the stage relabel alone, in several processes: `accelerate launch -m srel_hub.relabel RECIPE_OR_RUN`."""

from srel_hub.runs.stage_cli import cli
from srel_hub.stages.pipeline import relabel


__all__ = ["relabel"]

if __name__ == "__main__":
    cli(relabel)
