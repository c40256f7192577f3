"""Run the quickstart as the README does, and record every row's accuracy, the bytes and the time.

python benchmarks/quickstart.py
"""

import time

import measured

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json, total_bytes


def main() -> None:
    """Run the quickstart and write benchmarks/results/quickstart.json."""
    begun = time.monotonic()
    run = Run(load_recipe("quickstart", ["run.root=runs/benchmark"]))
    condense(run)
    run.close()
    student = read_json(run.path("evaluate", "summary.json"))["students"][0]
    results = {
        "seconds": round(time.monotonic() - begun, 1),
        "precision": run.engine.precision,
        "teacher": read_json(run.path("teacher", "metrics.json"))["top1"],
        "bytes": {part: total_bytes(run.path("dataset", part)) for part in ("data", "soft_labels")},
        "rows": {row["row"]: {"top1": row["top1"], "top5": row["top5"]} for row in student["rows"]},
    }
    measured.write_and_print("quickstart", results)


if __name__ == "__main__":
    main()
