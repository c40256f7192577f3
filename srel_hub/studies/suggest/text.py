"""The recipe that `srel-hub init` writes: YAML with the reason for each value in a comment."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from srel_hub import __version__, config
from srel_hub.config.yaml_io import to_yaml
from srel_hub.storage.files import format_bytes
from srel_hub.studies.plan.facts import Plan
from srel_hub.studies.plan.text import format_hours
from srel_hub.studies.suggest.rules import (
    CONDENSED_SHARE,
    MOST_IPC,
    SMALL_SIDE,
    SMALLEST_SIDE,
    Choice,
    Data,
    largest_side,
)


COLUMN = 42  # where comments behind values begin
WIDTH = 100
MANY_LABEL_BYTES = 2**30  # from which labels are stored in bytes
MOST_DEARER = 6  # choices listed that do not fit
RULE = (
    "Rule: the images get the size source.image_size if it is set, else the largest of 224, 128, 96, 64 and 32 pixels "
    "that does not enlarge most of them, else their median size. At this size, init prefers a ResNet-18, then a "
    "ResNet-18 with less training, then, up to 64 pixels, a ConvNet and a ConvNet of half the width. If no estimate "
    "fits the time and the memory, it tries the next smaller size."
)


def header(
    spec: config.Source,
    data: Data,
    choice: Choice,
    plan: Plan,
    processor: str,
    hours: float,
    dearer: Sequence[tuple[Choice, float]],
    file: str,
) -> str:
    """Return the comment above the recipe: data, machine, estimated time, and why these values.

    Args:
        spec: The recipe's section `source`.
        data: The dataset.
        choice: The choice that the recipe makes.
        plan: The cost of a run with this choice.
        processor: Name of the CPU or GPU.
        hours: The budget.
        dearer: Preferred choices that exceed the budget, each with its estimated hours.
        file: Name of the recipe's file.
    """
    machine = plan.facts.machine
    evaluated = "no eval split" if data.eval_images is None else f"{data.eval_images:,} eval images"
    if spec.eval_fraction:
        evaluated += " that are set aside from the training split (source.eval_fraction)"
    stages = ", ".join(f"{stage.name} {format_hours(stage.hours)}" for stage in plan.stages)
    labels = plan.label_bytes[plan.facts.recipe.relabel.encoding]
    fits = (
        f"within the budget of {hours:g} hours (--hours)"
        if plan.hours <= hours
        else f"more than the budget of {hours:g} hours (--hours), and the cheapest recipe that makes sense; use a GPU"
    )
    paragraphs = [
        f"{spec.path}, condensed to {choice.ipc} image{'s' if choice.ipc > 1 else ''} per class. Written by srel-hub "
        f"init (srel_hub {__version__}); change what you like.",
        "",
        f"Data: {data.train_images:,} training images of {len(data.class_names):,} classes "
        f"({data.smallest_class:,} in the smallest), {evaluated}. The shorter sides of {data.sampled} sampled images "
        f"have a median of {data.side} pixels.",
        f"Machine: {processor}, {format_bytes(machine.memory)} of memory; {machine.precision} at about "
        f"{machine.tflops:.2g} TFLOP/s ({machine.estimated}; other work on the machine lowers it).",
        f"Estimated time on one device of this kind: {format_hours(plan.hours)} ({stages}), {fits}. This is FLOPs "
        "divided by speed: expect it to be off by a factor of 2.",
        f"Result: {plan.images:,} images, together at most {format_bytes(plan.png_bytes)}, and "
        f"{format_bytes(labels)} of soft labels.",
        "",
        RULE,
    ]
    peak = max(plan.stages, key=lambda stage: stage.memory)
    if peak.memory > machine.memory:
        paragraphs.insert(-2, f"Not enough memory: {peak.name} needs {format_bytes(peak.memory)}.")
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, WIDTH - 2) or [""]]
    if dearer:
        lines += ["Preferred, but too slow or too large for this budget and machine:"]
        lines += [f"  {other.title}: {format_hours(estimate)}" for other, estimate in dearer[:MOST_DEARER]]
    lines += ["", "Next:", f"  srel-hub plan {file}", f"  srel-hub condense {file}"]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def body(spec: config.Source, data: Data, choice: Choice, name: str | None = None) -> str:
    """Return the recipe below its header; `name` is the name of the run directory, by default that of the source."""
    return "\n".join(_lines(spec, data, choice, name or run_name(spec))) + "\n"


def _lines(spec: config.Source, data: Data, choice: Choice, name: str) -> Iterator[str]:
    if choice.pretrained:
        yield "extends: base/in1k  # the pretrained teacher with its class names"
    yield f"name: {_scalar(name)}"
    yield from _source(spec, data, choice)
    yield from _squeeze(data, choice)
    yield from _recover(data, choice)
    yield from _relabel(data, choice)
    yield from _evaluate(choice)


def run_name(spec: config.Source) -> str:
    """Return the last part of the source's path, without characters that a recipe's name may not have."""
    last = config.public_name(str(spec.path)).split("/")[-1]
    return re.sub(r"[^A-Za-z0-9._-]", "-", last).strip("._-") or "images"


def _source(spec: config.Source, data: Data, choice: Choice) -> Iterator[str]:
    yield "source:"
    title = spec.title or run_name(spec)
    defaults = {field.name: field.default for field in fields(spec)}
    first = {"path", "train_split", "eval_split", "eval_fraction", "image_size", "title", "license"}
    yield f"  path: {_scalar(spec.path)}"
    yield f"  train_split: {_scalar(spec.train_split)}"
    yield _with(f"  eval_split: {_scalar(spec.eval_split)}", _why_eval_split(spec))
    if spec.eval_fraction is not None:
        kept = "set aside from each class's training images, to score students on"
        yield _with(f"  eval_fraction: {spec.eval_fraction:g}", kept)
    for name, default in defaults.items():
        value = getattr(spec, name)
        if name not in first and value != default:
            yield f"  {name}: {_scalar(value)}"
    yield _with(f"  image_size: {choice.side}", _why_side(spec, data, choice))
    yield _with(f"  title: {_scalar(title)}", "what the card calls the source")
    if not choice.pretrained or spec.license != "unknown":
        yield _with(f"  license: {_scalar(spec.license)}", "of the source; a public dataset needs one")


def _why_eval_split(spec: config.Source) -> str:
    if spec.eval_split is not None:
        return "students are scored on it"
    return "students are not scored" if spec.eval_fraction is None else "the dataset has none"


def _why_side(spec: config.Source, data: Data, choice: Choice) -> str:
    largest, median = largest_side(data.side), f"the median of the images is {data.side}"
    if spec.image_size is not None:
        return f"as given; {median}"
    if choice.pretrained:
        return "the size that the teacher was trained at"
    if choice.side < largest:
        return f"{median}, but {largest} pixels exceed the budget"
    if choice.side == data.side:
        return "the median of the images"
    if choice.side == SMALLEST_SIDE:
        return f"the smallest size of the networks; {median}"
    return median if choice.side < data.side else f"{median}, nearly this standard size"


def _squeeze(data: Data, choice: Choice) -> Iterator[str]:
    if choice.pretrained:
        yield "# No squeeze: a network with exactly these classes exists, timm/resnet18.tv_in1k, so none is trained."
        return
    yield "squeeze:"
    if choice.network.model == "convnet":
        yield from _comment(
            "ConvNet: an iteration of recover takes a quarter of ResNet-18's time (measured at 64 pixels on a CPU), "
            "so that the budget holds."
        )
    elif choice.network.stem == "imagenet":
        yield from _comment(f"ResNet-18, with the stem for more than {SMALL_SIDE} pixels: it halves images twice.")
    else:
        yield from _comment(f"ResNet-18, with the stem for up to {SMALL_SIDE} pixels: it keeps their size.")
    yield f"  network: {_network(choice)}"
    seen = choice.epochs * data.train_images
    yield _with(f"  epochs: {choice.epochs}", f"the teacher sees {seen:,} images")
    yield f"  batch_size: {choice.batch_size}"
    warmup = min(5, choice.epochs - 1)
    yield (
        f"  optimizer: {{kind: sgd, lr: {0.1 if choice.batch_size == 128 else 0.05}, momentum: 0.9, "
        f"weight_decay: 5.0e-4, warmup_epochs: {warmup}}}"
    )
    if not choice.flip:
        yield from _comment("The classes are digits or letters, which have a left and a right. If not, flip them.")
    yield f"  augment: {{crop: resized, flip: {_scalar(choice.flip)}}}"


def _recover(data: Data, choice: Choice) -> Iterator[str]:
    yield "recover:"
    share = f"1/{CONDENSED_SHARE} of the smallest class ({data.smallest_class:,}), at most {MOST_IPC}"
    yield _with(f"  ipc: {choice.ipc}", f"images per class; by default {share}")
    yield _with(f"  iterations: {choice.effort.iterations}", "of Adam for every image")
    roll = max(1, choice.side // 16)
    if choice.method == "best":
        yield from _comment(
            "The best method of our measurements: start from easy crops of real images, and match each class's own "
            "statistics. Real pixels remain in the result, people and all; --method sre2l starts from noise instead."
        )
        yield "  patches: {keep: easiest, scale: [0.5, 1]}"
        yield "  statistics: class"
        yield "  curriculum: cosine"
        yield "  bn_weight: auto"
        yield "  bn_ratio: 10"
        yield "  lr: 0.02"
    else:
        yield from _comment(
            "Plain SRe2L: start from noise, so that no real pixel remains. On a reduced CIFAR-10 with 10 images per "
            "class students reach 28.9 % with it, 42.5 % with random real images, and more with --method best."
        )
        yield "  bn_weight: 1.0"
        yield "  lr: 0.1"
    yield "  crop: resized"
    yield f"  flip: {_scalar(choice.flip)}"
    yield f"  roll: [-{roll}, {roll}]"


def _relabel(data: Data, choice: Choice) -> Iterator[str]:
    count, classes = choice.ipc * len(data.class_names), len(data.class_names)
    float16 = 2 * choice.effort.epochs * count * classes
    yield "relabel:"
    yield _with(f"  epochs: {choice.effort.epochs}", "stored views of every image")
    if float16 > MANY_LABEL_BYTES:
        yield _with("  encoding: uint8", f"float16 would take {format_bytes(float16)}, twice as much")
    yield f"  augment: {{crop: resized, flip: {_scalar(choice.flip)}, mix: cutmix}}"


def _evaluate(choice: Choice) -> Iterator[str]:
    yield "evaluate:"
    yield f"  students: [{_network(choice)}]"
    yield "  seeds: 3"
    yield f"  epochs: {choice.effort.epochs}"
    yield _with(f"  batch_size: {choice.student_batch_size}", "about ten steps per epoch")
    yield "  temperature: 20"
    yield "  optimizer: {kind: adamw, lr: 1.0e-3, weight_decay: 0.01}"


def _network(choice: Choice) -> str:
    parts = [f"model: {choice.network.model}"]
    parts += [f"width: {choice.network.width:g}"] if choice.network.width != 1 else []
    parts += [f"stem: {choice.network.stem}"] if choice.network.stem != "small" else []
    return f"{{{', '.join(parts)}}}"


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent="  # ", subsequent_indent="  # ")


def _with(line: str, comment: str) -> str:
    return f"{line:<{COLUMN}} # {comment}"


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, str) and ("\n" in value or len(value) > WIDTH):
        return json.dumps(value, ensure_ascii=False)  # YAML reads JSON's strings
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return to_yaml({"": value}).partition(":")[2].strip()
