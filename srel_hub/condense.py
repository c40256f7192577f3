"""The pipeline: squeeze, recover, relabel, evaluate, assemble.

    accelerate launch -m srel_hub.condense recipes/quickstart.yaml
    accelerate launch -m srel_hub.condense recipes/cifar10_ipc10.yaml recover.iterations=200 squeeze.network.width=0.25
"""

from srel_hub.evaluate import evaluate
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.run import Run, cli
from srel_hub.source import open_source
from srel_hub.squeeze import squeeze


def condense(run: Run) -> None:
    """Every stage in order; what is done already is kept."""
    source = open_source(run.recipe.source)
    squeeze(run, source)
    recover(run)
    relabel(run)
    evaluate(run, source)


if __name__ == "__main__":
    cli(condense)
