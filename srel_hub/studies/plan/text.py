"""studies.plan.text."""

from collections.abc import Iterator

from srel_hub.core.encodings import encoding_of, recipe_encoding
from srel_hub.labels.manifest import LARGEST_COUNT
from srel_hub.storage.files import format_bytes
from srel_hub.studies.plan.price import Plan


MANY_LABELS = 10 * 1024**3
FOLDER_FILES, COMMIT_FILES = 10_000, 100  # hf.co/docs/hub/repositories-recommendations
LONG_HOURS = 48.0
KNOBS = {  # of each stage: against memory, against time
    "squeeze": ("squeeze.batch_size", "squeeze.epochs"),
    "recover": ("recover.class_block, or set recover.stack=1", "recover.iterations"),
    "relabel": ("relabel.batch_size", "relabel.epochs"),
    "evaluate": ("evaluate.batch_size", "evaluate.epochs or evaluate.seeds"),
}


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan as text, warnings last."""
    return [*_price(plan), *(f"warning: {warning}" for warning in plan_warnings(plan))]


def _price(plan: Plan) -> Iterator[str]:
    facts, recipe, labels = plan.facts, plan.facts.recipe, plan.label_bytes
    machine, spec = facts.machine, recipe.relabel
    encoding = recipe_encoding(spec, facts.num_classes)
    topk = encoding_of("topk", facts.num_classes, spec.top_k, spec.top_values)
    others = ", ".join(
        f"{topk if name == 'topk' else name} {format_bytes(labels[name])}" for name in labels if name != spec.encoding
    )
    weights = ", ".join(f"{folder} {format_bytes(size)}" for folder, size in plan.teacher_bytes.items())
    folders = ", ".join(f"{folder} {count:,}" for folder, count in plan.files.items())
    yield (
        f"plan of {recipe.name}: {plan.images:,} images, {recipe.recover.ipc} each of {facts.num_classes:,} classes, "
        f"{facts.size[1]} x {facts.size[0]} pixels"
    )
    yield f"  pixels     {format_bytes(plan.pixel_bytes)}; as PNG at most {format_bytes(plan.png_bytes)}"
    if spec.encoding == "none":
        yield "  labels     none are stored: students ask the teacher"
    else:
        yield f"  labels     {format_bytes(labels[spec.encoding])}: {encoding}, {spec.epochs:,} epochs of every image"
    yield f"             otherwise, by relabel.encoding: {others}"
    yield f"  teachers   {weights}"
    yield f"  dataset    {sum(plan.files.values()):,} files at most, pushed in one commit: {folders}"
    yield f"  while it works, images/ holds {plan.shards:,} files"
    yield f"  {'stage':<10} {'units':>8} {'FLOPs':>10} {'peak memory':>12} {'time':>10}"
    for stage in plan.stages:
        memory, hours = format_bytes(stage.memory), format_hours(stage.hours)
        yield f"  {stage.name:<10} {stage.units:>8,} {stage.flops:>10.2e} {memory:>12} {hours:>10}"
    total = f"{sum(stage.flops for stage in plan.stages):.2e}"
    yield f"  {'all':<10} {'':>8} {total:>10} {'':>12} {format_hours(plan.hours):>10}"
    yield (
        f"  hours on {machine.devices} x {machine.kind} at {machine.tflops:.3g} TFLOP/s each"
        f"{f', an estimate: {machine.estimated}; --device-tflops says better' if machine.estimated else ''}"
    )
    where = "the host's" if machine.kind == "cpu" else "a GPU's"
    yield f"  memory is {where}, of one process; decoded images are mapped from files, and not counted on the host"
    if facts.eval_images is None:
        yield "  evaluate measures nothing: source.eval_split is null"
    elif facts.real_images is None:
        why = "source.train_split is null" if recipe.source.train_split is None else "evaluate.baselines is false"
        yield f"  evaluate trains on condensed images only: {why}"


def format_hours(hours: float) -> str:
    """Return a time as text: '3.2 h', '4.0 min', '12 s'."""
    minutes, seconds = 60 * hours, 3600 * hours
    return f"{hours:,.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def plan_warnings(plan: Plan) -> Iterator[str]:
    """Yield each expensive setting, with the reason and the option that helps."""
    recipe, machine = plan.facts.recipe, plan.facts.machine
    labels, epochs = plan.label_bytes.get(recipe.relabel.encoding, 0), recipe.relabel.epochs
    if max(plan.images, plan.facts.num_classes) > LARGEST_COUNT:
        yield f"{plan.images:,} images: labels count them in int32, at most {LARGEST_COUNT:,}; lower recover.ipc"
    if labels > MANY_LABELS:
        fewer = max(1, epochs // 10)
        yield (
            f"labels take {format_bytes(labels)}, which everybody who trains on them downloads; "
            f"relabel.epochs={fewer} takes {format_bytes(labels * fewer / epochs)}, and a student cycles through "
            "them; relabel.encoding=topk keeps the largest logits only"
        )
    for folder, count in {**plan.files, "images/ (of the run)": plan.shards}.items():
        if count > FOLDER_FILES:
            knob = "relabel.epochs" if folder == "soft_labels" else "recover.ipc, or raise recover.stack"
            yield f"{folder}: {count:,} files; the Hub takes {FOLDER_FILES:,} in a folder; lower {knob}"
    files = sum(plan.files.values())
    if recipe.publish.repo_id is not None and files > COMMIT_FILES:
        yield (
            f"the push is one commit of {files:,} files; the Hub advises fewer than {COMMIT_FILES}, since a large one "
            "may time out (it can be repeated); lower relabel.epochs"
        )
    for stage in plan.stages:
        if stage.memory > machine.memory:
            where = "the machine" if machine.kind == "cpu" else "a GPU"
            yield (
                f"{stage.name} needs {format_bytes(stage.memory)} of memory, {where} has "
                f"{format_bytes(machine.memory)}; lower {KNOBS[stage.name][0]}"
            )
    if plan.hours > LONG_HOURS:
        longest = max(plan.stages, key=lambda stage: stage.hours)
        yield (
            f"{plan.hours:,.0f} hours, of which {longest.name} takes {longest.hours:,.0f}; lower "
            f"{KNOBS[longest.name][1]}, or use more devices (--devices plans them)"
        )
