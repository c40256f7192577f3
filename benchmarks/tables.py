"""Write the tables of measured results into README.md and the pages of docs.

A page marks the place of a table by two comments, `<!-- table: NAME -->` and `<!-- end of table -->`. This script
replaces what is between them by the table that `benchmarks/results` gives; a test checks that nothing is stale.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from srel_hub.reports.card import ROW_TITLES
from srel_hub.reports.tables import markdown_table
from srel_hub.stages.evaluate.summary import percent
from srel_hub.storage.files import format_bytes


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.S)
NAMED_METHODS = {"sre2l": "SRe2L", "cda": "CDA", "sre2lpp": "SRe2L++", "fadrm": "FADRM", "best": "`best`"}
ROWS = {name: ROW_TITLES[name] for name in ("condensed", "random-real", "random-real-hard")}
SPEED = {  # the page's words, and the benchmark's
    "recover, ResNet-18, 100 images of 64 px, ms per image and iteration": "recover resnet18-64",
    "recover, ResNet-18, 100 images of 32 px, ms per image and iteration": "recover resnet18-32",
    "relabel, ResNet-18, 64 px, ms per image": "relabel resnet18-64",
    "relabel, ResNet-18, 32 px, ms per image": "relabel resnet18-32",
    "relabel, the quickstart's ConvNet, 8 px, ms per image": "relabel quickstart",
    "one epoch of a student, ResNet-18, 32 px, ms per image": "student resnet18-32",
    "one epoch of a student, ConvNet, 8 px, ms per image": "student quickstart",
    "recover, ResNet-18 x 0.5, ten groups of ten 8 px digits in one pass instead of ten": "stack digits-resnet18x0.5",
    "recover, ResNet-18, ten groups of ten 8 px digits in one pass instead of ten": "stack digits-resnet18",
    "recover, ConvNet, ten groups of ten 8 px digits in one pass instead of ten": "stack digits-convnet",
}


SPEED_GPU = {
    "recover, ResNet-18, 224 px, ms per image and iteration": "recover resnet18-224",
    "recover, ResNet-50, 224 px, ms per image and iteration": "recover resnet50-224",
    "relabel, ResNet-18, 224 px, ms per image": "relabel resnet18-224",
    "recover, ResNet-18, 32 px, compiled, ms per image and iteration": "recover resnet18-32 compiled",
    "recover, ResNet-18, 64 px, compiled, ms per image and iteration": "recover resnet18-64 compiled",
    "recover, ResNet-18, 224 px, compiled, ms per image and iteration": "recover resnet18-224 compiled",
}


def file(name: str) -> dict[str, Any]:
    """Return the content of one file of results."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def results(name: str) -> dict[str, Any]:
    """Return the measured values in one file of results."""
    values: dict[str, Any] = file(name)["results"]
    return values


def measured_on(name: str) -> Iterator[str]:
    """Yield the line below a table: what it was measured on, and the file that holds every value."""
    content = file(name)
    threads = f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}"
    versions = f"srel_hub {content['versions']['srel_hub']}, torch {content['versions']['torch']}"
    yield ""
    yield f"*{content['device']}, {threads}, {versions}; `benchmarks/results/{name}.json`.*"


def summary() -> Iterator[str]:
    """Yield the README's table: methods with a name on the digits and on CIFAR-10, and random real images."""
    digits, cifar = results("methods-digits"), results("methods-cifar10")
    cases = [digits["10"], cifar["1"], cifar["10"], cifar["50"]]
    header = ["method", "digits, 10 per class", *(f"CIFAR-10, {ipc}" for ipc in (1, 10, 50))]
    real = [case["sre2l"]["top1"]["random-real"] for case in cases]
    rows = [["random real images", *map(percent, real)]]
    for name, title in NAMED_METHODS.items():
        rows.append([title, *(percent(case[name]["top1"]["condensed"]) for case in cases)])
    yield from markdown_table(header, rows, range(1, 5))


def quickstart() -> Iterator[str]:
    """Yield the quickstart's results, as a card has them."""
    rows = [
        [ROWS[name], "100", percent(row["top1"]), percent(row["top5"]), str(len(row["top1"]["values"]))]
        for name, row in results("quickstart")["rows"].items()
    ]
    yield from markdown_table(["trained on", "images", "top-1 %", "top-5 %", "seeds"], rows, range(1, 5))
    yield from measured_on("quickstart")


def printed() -> Iterator[str]:
    """Yield the rows that the quickstart prints at its end."""
    yield "```text"
    yield f"{'student':<16} {'trained on':<18} {'images':>7} {'top-1':>16} {'top-5':>16}   n"
    for name, row in results("quickstart")["rows"].items():
        yield f"{'convnet x 1':<16} {name:<18} {100:>7} {percent(row['top1']):>16} {percent(row['top5']):>16}   3"
    yield "```"


def methods_cifar10() -> Iterator[str]:
    """Yield every method on the reduced CIFAR-10."""
    yield from _methods("cifar10")


def methods_digits() -> Iterator[str]:
    """Yield the methods that have a name, on the digits."""
    yield from _methods("digits", tuple(NAMED_METHODS))


def _methods(name: str, only: tuple[str, ...] = ()) -> Iterator[str]:
    by_ipc = results(f"methods-{name}")
    rows = [_by_ipc("random real images", by_ipc, "sre2l", "random-real")]
    rows += [_by_ipc(method, by_ipc, method, "condensed") for method in only or by_ipc["10"]]
    yield from markdown_table(["method", *by_ipc], rows, range(1, 1 + len(by_ipc)))
    yield from measured_on(f"methods-{name}")


def _by_ipc(title: str, by_ipc: dict[str, Any], method: str, row: str) -> list[str]:
    values = [percent(found[method]["top1"][row]) if method in found else "" for found in by_ipc.values()]
    return [title, *values]


def left_out() -> Iterator[str]:
    """Yield the two methods that were tried and left out, beside what they were added to."""
    rows = [["DELT, images that join late", percent(results("left-out")["delt"]["top1"])]]
    rows.append(["DWA, a perturbed teacher", percent(results("left-out")["dwa"]["top1"])])
    base = results("methods-cifar10")["10"]["best without class statistics"]["top1"]["condensed"]
    rows.append(["best without class statistics, to which both were added", percent(base)])
    yield from markdown_table(["method", "10"], rows, [1])
    yield from measured_on("left-out")


def labels_tiny() -> Iterator[str]:
    """Yield what each way to store labels takes and costs, on Tiny-ImageNet."""
    yield from _label_sizes("tiny")


def labels_cifar10() -> Iterator[str]:
    """Yield what each way to store labels takes and costs, on CIFAR-10."""
    yield from _label_sizes("cifar10")


def _label_sizes(name: str) -> Iterator[str]:
    rows = []
    for title, found in results(f"labels-{name}").items():
        size, smaller = format_bytes(found["bytes"]), f"{found.get('times_smaller', 1):g}"
        rows.append([title, size, smaller, f"{found['kl_error']['4']:.2g}", percent(found["top1"]["condensed"])])
    header = ["labels", "size", "times smaller", "KL lost at T = 4", "top-1 %"]
    yield from markdown_table(header, rows, range(1, 5))
    yield from measured_on(f"labels-{name}")


def protocols() -> Iterator[str]:
    """Yield one set of condensed images, and random real ones, under every protocol."""
    rows = []
    for name, found in results("protocols").items():
        columns = [percent(found["top1"][row]) if row in found["top1"] else "" for row in ("condensed", "random-real")]
        rows.append([f"`{name}`", *columns])
    yield from markdown_table(["protocol", "condensed images", "random real images"], rows, [1, 2])
    yield from measured_on("protocols")


def architectures() -> Iterator[str]:
    """Yield how well teachers recognize what was recovered from them, by the weight of the BatchNorm term."""
    rows = []
    for model, by_weight in results("architectures").items():
        values = [f"{100 * run['recognized']:.0f} %, {run['cross_entropy'][1]:.2g}" for run in by_weight.values()]
        rows.append([model, *values])
    header = ["teacher", "sum, weight 1", "sum, auto", "relative, weight 10", "relative, auto"]
    yield from markdown_table(header, rows, range(1, 5))
    yield from measured_on("architectures")


def grid_recovery() -> Iterator[str]:
    """Yield how recover went, by squeezed network: its loss terms, and the images that the teacher recognizes."""
    rows = []
    for squeezed, found in results("grid").items():
        terms = [f"{found['first'][term]:.3g} to {found['last'][term]:.3g}" for term in ("cross_entropy", "bn")]
        rows.append([squeezed, f"{100 * found['teacher']:.1f}", *terms, f"{100 * found['recognized']:.0f} %"])
    header = ["teacher", "its top-1 %", "cross-entropy", "BatchNorm term", "recognized images"]
    yield from markdown_table(header, rows, range(1, 5))


def grid() -> Iterator[str]:
    """Yield two rows per squeezed network: students on images recovered from it, and on as many random real ones."""
    by_teacher = results("grid")
    students = list(next(iter(by_teacher.values()))["students"])
    rows = []
    for squeezed, found in by_teacher.items():
        for kind, title in (
            ("condensed", f"condensed, {squeezed}"),
            ("random-real", f"random real, {squeezed} labels"),
        ):
            rows.append([title, *(percent(found["students"][student][kind]) for student in students)])
    yield from markdown_table(["images", *students], rows, range(1, 1 + len(students)))
    yield from measured_on("grid")


def continual() -> Iterator[str]:
    """Yield accuracy by the number of classes seen, for every kind of labels and memory."""
    by_labels = results("continual")
    classes = next(iter(by_labels.values()))["classes"]
    rows = []
    for labels, found in by_labels.items():
        for memory, row in found["memories"].items():
            if labels == "step" and memory.endswith("hard"):
                continue  # hard labels do not depend on the teacher: the same rows as with 'seen'
            steps = [f"{100 * step['mean']:.1f}" for step in row["steps"]]
            rows.append([labels, memory, *steps, percent(row["average"])])
    header = ["labels", "memory", *map(str, classes), "average"]
    yield from markdown_table(header, rows, range(2, len(header)))
    yield from measured_on("continual")


def speed() -> Iterator[str]:
    """Yield the time of each loop on a CPU, beside the published way to write it."""
    yield from _speed("cpu", SPEED)


def speed_gpu() -> Iterator[str]:
    """Yield the time of each loop on a GPU, beside the published way to write it."""
    yield from _speed("gpu", SPEED | SPEED_GPU)


def _speed(name: str, titles: dict[str, str]) -> Iterator[str]:
    cases = results(name)
    rows = []
    for title, case in titles.items():
        found = cases[case]
        names = ("stacked", "one by one") if "stacked" in found["times"] else ("ours", "published")
        ours, other = (found["times"][variant]["ms_per_image"] for variant in names)
        rows.append([title, _digits(ours), _digits(other), f"{found.get('ratio') or found['ratio_to_published']:.2f}"])
    pipeline = cases["pipeline quickstart"]
    stages = pipeline["milliseconds"].values()
    ours, other = (sum(stage[variant]["ms_per_image"] for stage in stages) for variant in ("ours", "published"))
    title = "a tenth of the quickstart: recover, relabel and one student, ms"
    rows.append([title, f"{ours:.0f}", f"{other:.0f}", f"{pipeline['ratio']:.2f}"])
    yield from markdown_table(["loop", "srel_hub", "published way", "ratio"], rows, range(1, 4))
    yield from measured_on(name)


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def precision() -> Iterator[str]:
    """Yield the quickstart in float32 and in bfloat16."""
    runs = results("faithful")["quickstart"]
    rows = [[title, *(percent(run[name]) for run in runs.values())] for name, title in ROWS.items()]
    yield from markdown_table(["trained on", *runs], rows, range(1, 3))
    yield from measured_on("faithful")


def cost() -> Iterator[str]:
    """Yield what an iteration of recover costs on a CPU core, by network, beside the paper's figures."""
    yield from _cost("cost-cpu")


def cost_gpu() -> Iterator[str]:
    """Yield the same on a GPU in bfloat16."""
    yield from _cost("cost-gpu")


def cost_gpu_float32() -> Iterator[str]:
    """Yield the same on a GPU in float32."""
    yield from _cost("cost-gpu-float32")


def _cost(name: str) -> Iterator[str]:
    rows = []
    for row in file(name)["results"]:
        paper = [f"{row['paper']['ms']:g}", f"{row['paper']['gb']:g} GB"]
        sizes = [format_bytes(row["peak_bytes"]), format_bytes(row["forecast_bytes"])]
        rows.append([row["network"], f"{row['parameters']:,}", f"{row['ms']:.3g}", *sizes, *paper])
    header = ["network", "parameters", "ms per image", "peak memory", "forecast", "paper: ms", "paper: memory"]
    yield from markdown_table(header, rows, range(1, 7))
    yield from measured_on(name)


def memory() -> Iterator[str]:
    """Yield the memory that writing and reading labels takes, by the size of an epoch."""
    rows = []
    for case in file("memory")["cases"]:
        size = format_bytes(case["bytes_of_an_epoch"])
        mebibytes = [case["anonymous_before_mib"], case["writing_mib"]["anonymous"]]
        mebibytes.append(max(epoch["anonymous"] for epoch in case["reading_mib"]))
        rows.append([f"{case['images']:,}", f"{case['classes']:,}", size, *(f"{value} MiB" for value in mebibytes)])
    header = ["images", "classes", "one epoch of labels", "memory before", "while writing", "while reading"]
    yield from markdown_table(header, rows, range(6))
    yield from measured_on("memory")


def gpu_cifar10() -> Iterator[str]:
    """Yield the accuracies at full size on CIFAR-10, by method and by the teacher's training."""
    rows = []
    for row in results("gpu-cifar10"):
        top1 = [percent(row["top1"][name]) if name in row["top1"] else "not run" for name in ROWS]
        teacher = [f"{row['teacher_epochs']}", f"{100 * row['teacher_top1']:.1f}"]
        rows.append([f"`{row['method']}`", *teacher, row["protocol"], *top1])
    header = ["method", "teacher's epochs", "teacher", "protocol", *ROWS.values()]
    yield from markdown_table(header, sorted(rows, key=lambda row: (row[0], int(row[1]))), (1, 2, 4, 5, 6))
    yield from measured_on("gpu-cifar10")


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    table.__name__.replace("_", "-"): table
    for table in (
        *(summary, quickstart, printed, methods_cifar10, methods_digits, left_out, labels_tiny, labels_cifar10),
        *(protocols, architectures, grid_recovery, grid, continual, speed, speed_gpu, precision),
        *(cost, cost_gpu, cost_gpu_float32, memory, gpu_cifar10),
    )
}


def fill(page: str) -> str:
    """Return the text of a page with every marked table as the results give it."""

    def table(match: re.Match[str]) -> str:
        lines = "\n".join(TABLES[match[2]]())
        return f"{match[1]}{lines}\n{match[3]}"

    return MARKED.sub(table, page)


def pages() -> Iterator[Path]:
    """Yield the documents that may have tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


if __name__ == "__main__":
    for page in pages():
        before = page.read_text()
        if (after := fill(before)) != before:
            page.write_text(after)
            print(f"updated {page.relative_to(ROOT)}")
