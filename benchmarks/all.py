"""Run all speed benchmarks for this machine's kind of device; writes benchmarks/results/cpu.json or gpu.json.

    python benchmarks/all.py [SECONDS]

Resumable: cases already measured on this machine and commit are skipped. After SECONDS no further case is begun.
"""

import sys

import measured
import pipeline
import recover
import relabel
import train


if __name__ == "__main__":
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    cases = recover.cases() | relabel.cases() | train.cases() | pipeline.cases()
    complete = measured.run("gpu" if measured.DEVICE.type == "cuda" else "cpu", cases, budget)
    sys.exit(0 if complete else 75)  # EX_TEMPFAIL of sysexits.h: try again
