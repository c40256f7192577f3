"""The program `srel-hub`."""

import importlib
import sys


COMMANDS = {
    "recipe": "config.loading",
    "plan": "studies.plan.run_plan",
    "pictures": "reports.run_pictures",
    "status": "runs.status",
    "verify": "labels.verify",
    "export": "reports.export",
    "compare": "reports.compare",
    "report": "reports.html",
    "measure": "studies.measure",
    "sweep": "studies.sweep",
    "continual": "studies.continual.study",
}
STAGES = {
    "condense": "condense",
    "squeeze": "stages.squeeze",
    "recover": "stages.recover.stage",
    "relabel": "stages.relabel",
    "evaluate": "stages.evaluate.stage",
    "publish": "reports.publish",
}


def main() -> int:
    """Run the program."""
    name, arguments = sys.argv[1], sys.argv[2:]
    if name in STAGES:
        module = importlib.import_module(f"srel_hub.{STAGES[name]}")
        from srel_hub.runs.stage_cli import cli

        cli(module.main if name == "evaluate" else getattr(module, name), arguments)
        return 0
    module = importlib.import_module(f"srel_hub.{COMMANDS[name]}")
    return module.main(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
