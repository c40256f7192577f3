"""What an iteration of recover costs, architecture by architecture (SRe2L, Table 1): srel_hub.measure, kept.

python benchmarks/cost.py [BATCH]        writes benchmarks/results/cost-cpu.json, on a GPU cost-gpu.json
"""

import sys
from dataclasses import asdict

import measured

from srel_hub.engine import best_precision
from srel_hub.measure import DEFAULT, PAPER_BATCH, PAPER_SIZE, Setting, costs, read_network, table


def main(batch: int) -> None:
    setting = Setting(PAPER_SIZE, batch, 200, 5, best_precision(), compiled=False)
    found = list(costs([read_network(name) for name in DEFAULT], setting))
    kind = "gpu" if measured.DEVICE.type == "cuda" else "cpu"
    measured.keep(f"cost-{kind}", [asdict(cost) for cost in found], **asdict(setting))
    print("\n".join(table(found, setting)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAPER_BATCH)
