"""Continual learning on condensed images: classes come in steps, and a small memory is all that is kept of them.

    python -m srel_hub.continual runs/quickstart --steps 5
    accelerate launch -m srel_hub.continual runs/cifar10_ipc10 --steps 5 --labels all --seeds 3

Class-incremental, in the manner of GDumb (Prabhu et al., 2020): after each step a student is trained from scratch on
the memory of all classes seen so far, and scored on their real eval images (SRe2L, section 3.7). The memory is the
run's condensed images, or as many random real ones, with the teacher's labels or their own.

What may the labels know of classes that have not come yet?

    step   nothing: at every step a teacher is trained anew, on the real images of the classes seen so far
    seen   the run's teacher labels, but only its logits of the classes seen so far are used; its features, and the
           condensed images, come from a training on all classes
    all    the run's teacher, with its logits of all classes, future ones included, among which the student must then
           choose; what the official code of SRe2L does

Leaves `continual/` in the run: a folder for each training, a table, CSV and plot. What is done is kept.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from srel_hub import drawing, networks, stopping, teacher
from srel_hub.cache import condensed_images, source_images
from srel_hub.checkpoint import Checkpoint
from srel_hub.cli import execute, named
from srel_hub.condensed import Epoch, sampled_epoch
from srel_hub.evaluate import Trained, percent, train_student
from srel_hub.faults import UserError
from srel_hub.files import atomic, read_json, write_json, write_text
from srel_hub.labelling import Labeller, make_labeller, run_classifiers
from srel_hub.pixels import near
from srel_hub.recipe import fingerprint
from srel_hub.rows import Row
from srel_hub.run import Run
from srel_hub.source import Source, open_source
from srel_hub.split import Images, random_subset
from srel_hub.squeeze import train
from srel_hub.teacher import Classifier
from srel_hub.training import accuracy, make_optimizer, require_finite
from srel_hub.units import derive_seed, generator
from srel_hub.work import Work


Labels = Literal["step", "seen", "all"]
MEMORIES = ("condensed", "condensed-hard", "random-real", "random-real-hard")
KNOWLEDGE = {
    "step": "labels of a teacher trained at every step on the classes seen so far",
    "seen": "labels of the run's teacher, its logits of the classes seen so far",
    "all": "labels of the run's teacher, its logits of all classes, future ones included",
}


@dataclass(frozen=True)
class Setting:
    """What is asked for.

    Attributes:
        steps: in which the classes come, as equal as they can be.
        labels: what the labels may know of classes to come.
        seeds: trainings of each memory.
        order: seed of the classes' order (numpy's RandomState.permutation).
    """

    steps: int
    labels: Labels
    seeds: int
    order: int

    def seen(self, num_classes: int) -> list[list[int]]:
        """The classes seen after each step, in the order in which they came."""
        classes = np.random.RandomState(self.order).permutation(num_classes).tolist()
        ends = [num_classes * (step + 1) // self.steps for step in range(self.steps)]
        return [classes[:end] for end in ends]


@dataclass(frozen=True)
class Training:
    """One student: after which step, on which memory, of which seed."""

    step: int
    memory: str
    seed: int

    @property
    def name(self) -> str:
        return f"step-{self.step + 1}-{self.memory}-seed{self.seed}"


def continual(run: Run, setting: Setting) -> Path:
    """All trainings that are not done yet, then the table.

    Returns:
        the folder of results.
    """
    with run.accelerator.main_process_first():
        source = open_source(run.recipe.source, run.progress)
    run.require("images", "recover")
    for folder in run.recipe.label_folders:
        run.require(folder, "squeeze")
    _require(run, setting, source)
    run.begin()
    classifiers = run_classifiers(run)
    kept = f"continual/{setting.steps}-steps-{setting.labels}-{_key(run, setting)}"
    run.path(kept).mkdir(parents=True, exist_ok=True)
    world = World(run, setting, source, classifiers, run.path(kept))
    found = {f"{world.folder.name}-{each.name}": each for each in _trainings(setting)}
    with Work(run, "continual", dict.fromkeys(found, run.recipe.evaluate.epochs), "epoch") as work:
        for name in work:
            world.train(found[name], work)
    if run.is_main:
        with run.locked("continual"):
            _conclude(run, setting, world)
    return world.folder


def _key(run: Run, setting: Setting) -> str:
    """Of all that decides the results."""
    stages = [run.stage_key(name) for name in ("squeeze", "recover", "relabel", "evaluate")]
    return fingerprint([stages, setting.order, run.recipe.seed])[:8]


def _require(run: Run, setting: Setting, source: Source) -> None:
    if source.eval is None or source.train is None:
        raise UserError("continual learning needs source.train_split, for random real memories, and source.eval_split")
    assert source.class_names is not None
    count = len(source.class_names)
    if not 2 <= setting.steps <= count // 2:
        raise UserError(
            f"--steps={setting.steps}: must be 2 to {count // 2}, for {count} classes, two at least a step"
        )
    if setting.labels == "step" and run.recipe.squeeze.pretrained is not None:
        raise UserError(
            "--labels=step: trains a teacher at every step, and squeeze.pretrained names one; use seen or all"
        )


def _trainings(setting: Setting) -> list[Training]:
    return [
        Training(step, memory, seed)
        for step in range(setting.steps)
        for memory in MEMORIES
        for seed in range(setting.seeds)
    ]


class World:
    """What trainings of a run share.

    Args:
        folder: of the results.
    """

    def __init__(
        self, run: Run, setting: Setting, source: Source, classifiers: Sequence[Classifier], folder: Path
    ) -> None:
        assert source.train is not None and source.eval is not None
        self.run, self.setting, self.folder = run, setting, folder
        self.num_classes, self.frame = len(classifiers[0].class_names), classifiers[0].frame
        self._classifiers, self._train, self._eval = classifiers, source.train, source.eval
        self._step_labeller: tuple[int, Labeller] | None = None

    def train(self, training: Training, work: Work) -> None:
        """One student: train it, score it, keep the numbers."""
        spec, run = self.run.recipe.evaluate, self.run
        seen = torch.tensor(self.setting.seen(self.num_classes)[training.step])
        known = torch.arange(self.num_classes) if self.setting.labels == "all" else seen
        labeller = self._labeller(training.step, seen)
        row = self._row(training, seen, known, labeller)
        test = remapped(_only(source_images(run, self._eval, self.frame), seen), known)
        seed = derive_seed(run.recipe.seed, "continual", training.step, training.seed)
        names = [self._classifiers[0].class_names[index] for index in known]
        model = networks.build(spec.students[0], names, test.size, seed).to(run.device)
        trained = Trained(model, spec)
        file = run.path("checkpoints", f"continual-{self.folder.name}-{training.name}")
        checkpoint = Checkpoint(file, trained.state, make_optimizer(model, spec.optimizer))
        checkpoint.restore()
        network = run.engine.network(model)
        for loss in work.steps(train_student(trained, network, row, spec, seed, checkpoint), checkpoint.epochs):
            checkpoint.add(True, epoch=checkpoint.epochs, loss=loss)
        top1, _ = accuracy(trained.scored, test.pixels, test.labels, labeller.table)
        told = {"top1": top1, "images": len(row.labels), "classes": len(seen), "eval_images": len(test.labels)}
        result = self.folder / f"{training.name}.json"
        write_json(result, told)
        work.done([result], **told)
        checkpoint.remove()

    def _row(self, training: Training, seen: Tensor, known: Tensor, labeller: Labeller) -> Row:
        """The memory after a step. Its labels are asked for, since stored views may be mixed with later classes."""
        run, is_condensed = self.run, training.memory.startswith("condensed")
        images = condensed_images(run) if is_condensed else self._random_real(training.seed)
        images = remapped(_only(images, seen), known)
        pixels, augment = near(images.pixels, run.device), run.recipe.relabel.augment
        seed = derive_seed(run.recipe.seed, "continual", training.step, "views")

        def epoch(index: int) -> Epoch:
            return sampled_epoch(pixels, labeller, augment, seed, index)

        return Row(images.labels, epoch, hard=training.memory.endswith("hard"))

    def _random_real(self, seed: int) -> Images:
        """As many of each class as there are condensed ones; what was kept of a class stays kept at later steps."""
        draw = generator(self.run.recipe.seed, "evaluate", "random-real", seed)
        chosen = random_subset(self._train.labels, self.run.recipe.recover.ipc, self.num_classes, draw)
        return source_images(self.run, self._train, self.frame, chosen)

    def _labeller(self, step: int, seen: Tensor) -> Labeller:
        run = self.run
        if self.setting.labels != "step":
            labeller = make_labeller(self._classifiers, run.engine, run.device, run.recipe.relabel.group_size)
            return labeller if self.setting.labels == "all" else restricted(labeller, seen.to(run.device))
        if self._step_labeller is None or self._step_labeller[0] != step:
            made = make_labeller(
                [self._step_teacher(step, seen)], run.engine, run.device, run.recipe.relabel.group_size
            )
            self._step_labeller = step, made
        return self._step_labeller[1]

    def _step_teacher(self, step: int, seen: Tensor) -> Classifier:
        """Trained, once, on the real images of the classes seen so far."""
        run, folder = self.run, self.folder / f"teacher-{step + 1}"
        with run.locked(f"continual-teacher-{step + 1}"):
            if not folder.is_dir():
                made = self._squeezed(step, seen)
                with atomic(folder) as temporary:
                    teacher.save(made, temporary)
        return teacher.load(folder, run.device)

    def _squeezed(self, step: int, seen: Tensor) -> Classifier:
        run, spec, first = self.run, self.run.recipe.squeeze, self._classifiers[0]
        images = remapped(_only(source_images(run, self._train, self.frame), seen), seen)
        seed = derive_seed(run.recipe.seed, "continual", "teacher", step)
        model = networks.build(spec.network, [first.class_names[index] for index in seen], images.size, seed)
        names = tuple(first.class_names[index] for index in seen)
        made = replace(first, model=model.to(run.device), class_names=names)
        file = run.path("checkpoints", f"continual-{self.folder.name}-teacher-{step + 1}")
        checkpoint = Checkpoint(file, model, make_optimizer(model, spec.optimizer))
        checkpoint.restore()
        steps = train(made, checkpoint, images, spec, seed, run.accelerator, run.engine)
        for each in run.progress(steps, None, f"teacher of step {step + 1}", "batch"):
            if each.last:
                loss = require_finite(each.loss, "continual, a step's teacher", "squeeze.optimizer.lr")
                checkpoint.add(True, epoch=each.epoch, loss=loss, lr=each.lr)
        checkpoint.remove()
        return made


def _only(images: Images, classes: Tensor) -> Images:
    """The images of these classes."""
    rows = torch.isin(images.labels, classes).nonzero()[:, 0]
    return Images(images.pixels[rows], images.labels[rows])


def remapped(images: Images, known: Tensor) -> Images:
    """Labels as places in `known`, int64 [K'], which has them all."""
    place = torch.full((int(max(known.max(), images.labels.max())) + 1,), -1)
    place[known] = torch.arange(len(known))
    return Images(images.pixels, place[images.labels])


def restricted(labeller: Labeller, columns: Tensor) -> Labeller:
    """The labeller's logits of these classes, in this order."""

    def chosen(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: network(x)[:, columns]

    return replace(labeller, members=tuple((chosen(network), table) for network, table in labeller.members))


def summarise(setting: Setting, folder: Path) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds of every memory after every step, and over all steps."""
    rows = {}
    for memory in MEMORIES:
        told = [
            [read_json(folder / f"{Training(step, memory, seed).name}.json") for seed in range(setting.seeds)]
            for step in range(setting.steps)
        ]
        each_seed = [statistics.fmean(step[seed]["top1"] for step in told) for seed in range(setting.seeds)]
        rows[memory] = {
            "images": [step[0]["images"] for step in told],
            "steps": [_spread([each["top1"] for each in step]) for step in told],
            "average": _spread(each_seed),
        }
    first = [read_json(folder / f"{Training(step, MEMORIES[0], 0).name}.json") for step in range(setting.steps)]
    return {"classes": [each["classes"] for each in first], "memories": rows}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def table(summary: dict[str, Any], setting: Setting) -> Iterator[str]:
    """Markdown: a line a memory, a column a step."""
    classes = summary["classes"]
    yield f"| memory | {' | '.join(f'{count} classes' for count in classes)} | average |"
    yield f"| --- | {'---: | ' * len(classes)}---: |"
    for memory, row in summary["memories"].items():
        yield f"| {memory} | {' | '.join(percent(step) for step in row['steps'])} | {percent(row['average'])} |"
    yield ""
    yield f"top-1 % on the eval images of the classes seen, mean +- standard deviation over {setting.seeds} seeds;"
    yield f"{KNOWLEDGE[setting.labels]}; -hard: the classes alone"


def plot(summary: dict[str, Any], file: Path) -> None:
    """Accuracy after each step."""
    with drawing.panels(file, 1, 1, 4.6, 3.6) as panels:
        panel = panels[0][0]
        for index, (memory, row) in enumerate(summary["memories"].items()):
            y = [100 * step["mean"] for step in row["steps"]]
            error = [100 * (step["std"] or 0) for step in row["steps"]]
            style = {"color": drawing.COLOURS[index], "marker": drawing.MARKERS[index], "capsize": 2}
            dashes = ":" if memory.endswith("hard") else "-"
            panel.errorbar(summary["classes"], y, error, **style, linestyle=dashes, label=memory)
        panel.set(xlabel="classes seen", ylabel="top-1 % on the classes seen")
        panel.set_xticks(summary["classes"])
        drawing.legend_below(panel)


def _conclude(run: Run, setting: Setting, world: World) -> None:
    summary = summarise(setting, world.folder)
    lines = list(table(summary, setting))
    write_json(world.folder / "summary.json", summary)
    write_text(world.folder / "table.md", "\n".join(lines) + "\n")
    with (world.folder / "table.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["memory", "step", "classes", "images", "top1", "std", "n"])
        for memory, row in summary["memories"].items():
            for step, score in enumerate(row["steps"]):
                told = (summary["classes"][step], row["images"][step], score["mean"], score["std"], setting.seeds)
                writer.writerow([memory, step + 1, *told])
    print("\n".join([*lines, f"written: {world.folder}: table.md, table.csv, plot.png"]))
    plot(summary, world.folder / "plot.png")  # last: it may find matplotlib missing


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m srel_hub.continual", description="Continual learning on a run's condensed images."
    )
    parser.add_argument("run", metavar="RUN_OR_RECIPE")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="in which the classes come (default 5)")
    parser.add_argument("--labels", choices=get_args(Labels), default="seen", help="what they may know (default seen)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each memory (default 3)")
    parser.add_argument("--order", type=int, default=0, metavar="SEED", help="of the classes' order (default 0)")
    asked = parser.parse_intermixed_args(argv)
    setting = Setting(asked.steps, asked.labels, asked.seeds, asked.order)
    with stopping.obeyed():
        try:
            if asked.seeds < 1 or asked.order < 0:
                raise UserError("--seeds must be at least 1, --order at least 0")
            run = Run(named(asked.run, asked.overrides))
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except stopping.Stopped as stopped:
            return stopped.exit_status
        return execute(lambda run: continual(run, setting), run)


if __name__ == "__main__":
    sys.exit(main())
