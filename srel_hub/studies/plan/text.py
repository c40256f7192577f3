"""Format a plan as text, with warnings that name the option to change."""

from collections.abc import Iterator

from srel_hub.core.encodings import encoding_of, recipe_encoding
from srel_hub.labels.read_manifest import LARGEST_COUNT
from srel_hub.storage.files import format_bytes
from srel_hub.studies.plan.facts import Plan, StagePlan


MANY_LABELS = 10 * 1024**3  # bytes from which a download takes longer than most users wait
FOLDER_FILES, COMMIT_FILES = 10_000, 100  # hf.co/docs/hub/repositories-recommendations
LONG_HOURS = 48.0
OPTIONS = {  # of each stage: the one that lowers memory, the one that lowers time
    "squeeze": ("squeeze.batch_size", "squeeze.epochs"),
    "recover": ("recover.class_block, or set recover.stack=1", "recover.iterations"),
    "relabel": ("relabel.batch_size", "relabel.epochs"),
    "evaluate": ("evaluate.batch_size", "evaluate.epochs or evaluate.seeds"),
}


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan as lines of text, warnings last."""
    lines = [*_size_lines(plan), *_stage_lines(plan), *_note_lines(plan)]
    return [*lines, *(f"warning: {warning}" for warning in plan_warnings(plan))]


def _size_lines(plan: Plan) -> Iterator[str]:
    facts, spec, sizes = plan.facts, plan.facts.recipe.relabel, plan.label_bytes
    weights = ", ".join(f"{folder} {format_bytes(size)}" for folder, size in plan.teacher_bytes.items())
    folders = ", ".join(f"{folder} {count:,}" for folder, count in plan.files.items())
    yield (
        f"plan of {facts.recipe.name}: {plan.images:,} images, {facts.recipe.recover.ipc} for each of "
        f"{facts.num_classes:,} classes, {facts.size[1]} x {facts.size[0]} pixels"
    )
    yield f"  pixels     {format_bytes(plan.pixel_bytes)}; as PNG at most {format_bytes(plan.png_bytes)}"
    if spec.encoding == "none":
        yield "  labels     not stored: the teacher computes them while students train"
    else:
        encoding = recipe_encoding(spec, facts.num_classes)
        yield f"  labels     {format_bytes(sizes[spec.encoding])}: {encoding}, {spec.epochs:,} epochs of every image"
    topk = encoding_of("topk", facts.num_classes, spec.top_k, spec.top_values)
    others = ", ".join(
        f"{topk if name == 'topk' else name} {format_bytes(sizes[name])}" for name in sizes if name != spec.encoding
    )
    yield f"             with another relabel.encoding: {others}"
    yield f"  teachers   {weights}"
    yield f"  dataset    at most {sum(plan.files.values()):,} files, pushed in one commit: {folders}"
    yield f"  run        {plan.shards:,} files in images/"
    yield f"  disk       about {plan.disk}"


def _stage_lines(plan: Plan) -> Iterator[str]:
    yield f"  {'stage':<10} {'units':>8} {'FLOPs':>10} {'peak memory':>12} {'time':>10}"
    yield from (_stage_line(stage) for stage in plan.stages)
    flops = f"{sum(stage.flops for stage in plan.stages):.2e}"
    yield f"  {'all':<10} {'':>8} {flops:>10} {'':>12} {format_hours(plan.hours):>10}"


def _stage_line(stage: StagePlan) -> str:
    memory, hours = format_bytes(stage.memory), format_hours(stage.hours)
    return f"  {stage.name:<10} {stage.units:>8,} {stage.flops:>10.2e} {memory:>12} {hours:>10}"


def _note_lines(plan: Plan) -> Iterator[str]:
    facts, machine = plan.facts, plan.facts.machine
    estimate = f", an estimate: {machine.estimated}; set --device-tflops if you know it" if machine.estimated else ""
    yield f"  time assumes {machine.devices} x {machine.kind} at {machine.tflops:.3g} TFLOP/s each{estimate}"
    if machine.kind == "cpu":
        yield "  memory is that of one process, without decoded images, which are memory-mapped"
    else:
        yield "  memory is GPU memory of one process"
    if facts.eval_images is None:
        yield "  evaluate measures nothing: source.eval_split is null"
    elif facts.real_images is None:
        has_train = facts.recipe.source.train_split is not None
        reason = "evaluate.baselines is false" if has_train else "source.train_split is null"
        yield f"  evaluate trains on condensed images only: {reason}"


def format_hours(hours: float) -> str:
    """Return a time as text: '3.2 h', '4.0 min', '12 s'."""
    minutes, seconds = 60 * hours, 3600 * hours
    return f"{hours:,.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"


def plan_warnings(plan: Plan) -> Iterator[str]:
    """Yield a warning for each expensive setting. It names the option to change."""
    yield from _label_warnings(plan)
    yield from _file_warnings(plan)
    machine = plan.facts.machine
    for stage in plan.stages:
        if stage.memory > machine.memory:
            owner = "the machine" if machine.kind == "cpu" else "a GPU"
            yield (
                f"{stage.name} needs {format_bytes(stage.memory)} of memory, but {owner} has "
                f"{format_bytes(machine.memory)}; lower {OPTIONS[stage.name][0]}"
            )
    if plan.hours > LONG_HOURS:
        longest = max(plan.stages, key=lambda stage: stage.hours)
        yield (
            f"the run takes {plan.hours:,.0f} hours, of which {longest.name} takes {longest.hours:,.0f}; lower "
            f"{OPTIONS[longest.name][1]}, or use more devices (plan them with --devices)"
        )


def _label_warnings(plan: Plan) -> Iterator[str]:
    spec = plan.facts.recipe.relabel
    size = plan.label_bytes.get(spec.encoding, 0)
    if max(plan.images, plan.facts.num_classes) > LARGEST_COUNT:
        # Image and class numbers are stored in int32 (`order`, `partners`, `indices`).
        yield f"{plan.images:,} images: soft labels support at most {LARGEST_COUNT:,} (int32); lower recover.ipc"
    if size > MANY_LABELS:
        fewer = max(1, spec.epochs // 10)
        yield (
            f"soft labels take {format_bytes(size)}, and every user who trains on them downloads them; "
            f"relabel.epochs={fewer} takes {format_bytes(size * fewer / spec.epochs)} (students cycle through the "
            "stored epochs), and relabel.encoding=topk stores only the largest logits"
        )


def _file_warnings(plan: Plan) -> Iterator[str]:
    for folder, count in {**plan.files, "images/ (of the run)": plan.shards}.items():
        if count > FOLDER_FILES:
            option = "relabel.epochs" if folder == "soft_labels" else "recover.ipc, or raise recover.stack"
            yield f"{folder}: {count:,} files, but the Hub allows {FOLDER_FILES:,} in a folder; lower {option}"
    files = sum(plan.files.values())
    if plan.facts.recipe.publish.repo_id is not None and files > COMMIT_FILES:
        yield (
            f"the push is one commit of {files:,} files, but the Hub recommends fewer than {COMMIT_FILES}, because a "
            "large commit may time out, and must then be repeated; lower relabel.epochs"
        )
