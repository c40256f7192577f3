"""The README's tables of figures, from benchmarks/results: each line stands there as it is printed here.

python benchmarks/tables.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srel_hub.stages.evaluate.summary import percent
from srel_hub.storage.files import format_bytes
from srel_hub.studies.measure import report_lines


RESULTS = Path(__file__).parent / "results"
SPEED = {  # the README's words, and the benchmark's
    "recover, ResNet-18, 100 images of 64 px, ms an image and iteration": "recover resnet18-64",
    "the same at 32 px": "recover resnet18-32",
    "relabel, ResNet-18, 64 px, ms an image": "relabel resnet18-64",
    "relabel at 32 px": "relabel resnet18-32",
    "relabel, the quickstart's ConvNet, 8 px": "relabel quickstart",
    "a student's epoch, ResNet-18, 32 px, ms an image": "student resnet18-32",
    "a student's epoch, ConvNet, 8 px": "student quickstart",
    "ten indices of ten 8 px digits in one pass, ResNet-18 x 0.5, against one by one": "stack digits-resnet18x0.5",
    "such indices, ResNet-18": "stack digits-resnet18",
    "such indices, ConvNet": "stack digits-convnet",
}


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["results"]
    return found


def speed() -> Iterator[str]:
    found = results("cpu")
    for title, case in SPEED.items():
        ours, other = (found[case]["times"][name]["ms_per_image"] for name in _two(found[case]["times"]))
        ratio = found[case].get("ratio") or found[case]["ratio_to_published"]
        yield f"| {title} | {_digits(ours)} | {_digits(other)} | {ratio:.2f} |"
    stages = found["pipeline quickstart"]["milliseconds"].values()
    ours, other = (sum(stage[name]["ms_per_image"] for stage in stages) for name in ("ours", "published"))
    ratio = found["pipeline quickstart"]["ratio"]
    yield f"| a tenth of the quickstart: recover, relabel, one student, ms | {ours:.0f} | {other:.0f} | {ratio:.2f} |"


def _two(times: dict[str, Any]) -> tuple[str, str]:
    return ("stacked", "one by one") if "stacked" in times else ("ours", "published")


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def quickstart() -> Iterator[str]:
    for name, row in results("quickstart")["rows"].items():
        yield f"{'convnet x 1':<16} {name:<18} {100:>7} {percent(row['top1']):>16} {percent(row['top5']):>16}   3"


def grid() -> Iterator[str]:
    """Two lines a squeezed network: students on the images recovered from it, and on as many random real ones."""
    found = results("grid")
    students = list(next(iter(found.values()))["students"])
    yield f"| images | teacher, top-1 | cross-entropy | BatchNorm term | recognized | {' | '.join(students)} |"
    yield f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(students)}"
    for squeezed, row in found.items():
        terms = [f"{row['first'][term]:.3g} to {row['last'][term]:.3g}" for term in ("cross_entropy", "bn")]
        about = f"{squeezed}, {100 * row['teacher']:.1f} | {' | '.join(terms)} | {100 * row['recognized']:.0f} %"
        for kind, told in (("condensed", about), ("random-real", f"{squeezed} labels | | |")):
            cells = [percent(row["students"][student][kind]) for student in students]
            yield f"| {kind.replace('-', ' ')} | {told} | {' | '.join(cells)} |"


def continual() -> Iterator[str]:
    found = results("continual")
    classes = next(iter(found.values()))["classes"]
    yield f"| labels | memory | {' | '.join(map(str, classes))} | average |"
    yield f"| --- | --- | {'---: | ' * len(classes)}---: |"
    for labels, summary in found.items():
        for memory, row in summary["memories"].items():
            if labels == "step" and memory.endswith("hard"):
                continue  # the same as with 'seen'
            cells = [f"{100 * step['mean']:.1f}" for step in row["steps"]]
            yield f"| {labels} | {memory} | {' | '.join(cells)} | {percent(row['average'])} |"


def label_sizes(name: str) -> Iterator[str]:
    for title, found in results(f"labels-{name}").items():
        loss = found["kl_error"]["4"]
        smaller = f"{found.get('times_smaller', 1):g}"
        top1 = percent(found["top1"]["condensed"])
        yield f"| {title} | {format_bytes(found['bytes'])} | {smaller} | {loss:.2g} | {top1} |"


def protocols() -> Iterator[str]:
    for name, found in results("protocols").items():
        cells = [percent(found["top1"][row]) if row in found["top1"] else "" for row in ("condensed", "random-real")]
        yield f"| `{name}` | {' | '.join(cells)} |"


def methods(name: str, only: tuple[str, ...] = ()) -> Iterator[str]:
    """Every method, or only some, at 1, 10 and 50 images a class; random real images first."""
    found = results(f"methods-{name}")
    yield _by_ipc("random real images", found, "sre2l", "random-real")
    for method in only or found["10"]:
        yield _by_ipc(method, found, method, "condensed")


def digits() -> Iterator[str]:
    """The methods that have a name, on the digits."""
    yield from methods("digits", ("sre2l", "cda", "sre2lpp", "fadrm", "best"))


def _by_ipc(title: str, found: dict[str, Any], method: str, row: str) -> str:
    cells = [percent(each[method]["top1"][row]) if method in each else "" for each in found.values()]
    return f"| {title} | {' | '.join(cells)} |"


def architectures() -> Iterator[str]:
    for model, found in results("architectures").items():
        cells = [f"{100 * each['recognized']:.0f} %, {each['cross_entropy'][1]:.2g}" for each in found.values()]
        yield f"| {model} | {' | '.join(cells)} |"


def cost(name: str = "cost-cpu") -> Iterator[str]:
    """What an iteration costs, by network."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    yield from (line for line in report_lines(found) if line.startswith("|"))


if __name__ == "__main__":
    all_of = [speed(), quickstart(), label_sizes("tiny"), label_sizes("cifar10"), protocols()]
    for table in (*all_of, digits(), methods("cifar10"), architectures(), grid(), continual(), cost()):
        print("\n".join(table), end="\n\n")
