"""Run the publish stage alone: `accelerate launch -m srel_hub.publish RECIPE_OR_RUN`."""

from srel_hub.reports.publish import publish
from srel_hub.runs.stage_cli import cli


if __name__ == "__main__":
    cli(publish)
