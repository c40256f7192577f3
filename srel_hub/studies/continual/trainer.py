"""What the trainings of continual learning share: memories, eval images, who labels, students."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srel_hub.core.metrics import accuracy
from srel_hub.core.optim import make_optimizer
from srel_hub.core.seeds import derive_seed, generator
from srel_hub.data.sources import Source
from srel_hub.data.splits import Images, random_subset
from srel_hub.labels.epochs import Epoch, sampled_epoch
from srel_hub.labels.labeller import Labeller, make_labeller
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import condensed_images, source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.evaluate.student import Student, train_student
from srel_hub.stages.evaluate.training_sets import TrainingSet
from srel_hub.storage.files import write_json
from srel_hub.storage.mapped_images import to_device_if_it_fits
from srel_hub.studies.continual.protocol import Setting, Training, only, remapped, restricted, rows_of
from srel_hub.studies.continual.teachers import StepTeachers
from srel_hub.teachers import architectures as networks
from srel_hub.teachers.classifier import Classifier


class World:
    """The world of one run and setting. Classes are counted as places among the `known`.

    Args:
        classifiers: that label in the run, the teacher first.
        folder: of the results.
    """

    def __init__(
        self, run: Run, setting: Setting, source: Source, classifiers: Sequence[Classifier], folder: Path
    ) -> None:
        assert source.train is not None and source.eval is not None
        self.run, self.setting, self.folder = run, setting, folder
        self._classifiers, self._train, self._eval = classifiers, source.train, source.eval
        self._frame, self._names = classifiers[0].frame, classifiers[0].class_names
        self.teachers = StepTeachers(run, setting, classifiers[0], source.train, folder)
        self._last: tuple[int, Labeller] | None = None  # a step, and who labels then

    def seen(self, step: int) -> Tensor:
        """int64 [K']: the classes seen after a step, in the order in which they came."""
        return torch.tensor(self.setting.seen(len(self._names))[step])

    def known(self, step: int) -> Tensor:
        """int64 [K'']: the class of each of a student's logits."""
        return torch.arange(len(self._names)) if self.setting.labels == "all" else self.seen(step)

    def train(self, training: Training, work: WorkQueue) -> None:
        """One student: train it, score it, keep the numbers."""
        spec, run, labeller = self.run.recipe.evaluate, self.run, self.labeller(training.step)
        test, row = self.test(training.step), self._row(training, labeller)
        model = self.student(training).to(run.device)
        trained = Student(model, spec)
        file = run.path("checkpoints", f"continual-{self.folder.name}-{training.name}")
        checkpoint = Checkpoint(file, trained.state, make_optimizer(model, spec.optimizer))
        checkpoint.restore()
        steps = train_student(trained, run.engine.network(model), row, spec, self._seed(training), checkpoint)
        for loss in work.steps(steps, checkpoint.epochs):
            checkpoint.add(True, epoch=checkpoint.epochs, loss=loss)
        top1, _ = accuracy(trained.scored, test.pixels, test.labels, labeller.table)
        told = {"top1": top1, "images": len(row.labels), "eval_images": len(test.labels)}
        told |= {"classes": len(self.seen(training.step))}
        result = self.folder / f"{training.name}.json"
        write_json(result, told)
        work.done([result], **told)
        checkpoint.remove()

    def _seed(self, training: Training) -> int:
        """The same for all memories of a step and seed: their students start from equal weights."""
        return derive_seed(self.run.recipe.seed, "continual", training.step, training.seed)

    def student(self, training: Training) -> Any:
        """An untrained network, on the CPU, with a logit for each known class."""
        names = [self._names[index] for index in self.known(training.step)]
        network = self.run.recipe.evaluate.students[0]
        return networks.build(network, names, self._frame.size, self._seed(training))

    def test(self, step: int) -> Images:
        """The real eval images of the classes seen, their labels as places among the known."""
        rows = rows_of(self._eval.labels, self.seen(step))
        return remapped(source_images(self.run, self._eval, self._frame, rows), self.known(step))

    def memory(self, training: Training) -> Images:
        """What is kept of the classes seen, their labels as places among the known; what was kept of a class at a step
        stays kept at later ones.
        """
        images = condensed_images(self.run) if training.is_condensed else self._random_real(training.seed)
        return remapped(only(images, self.seen(training.step)), self.known(training.step))

    def _random_real(self, seed: int) -> Images:
        """As many of each class as there are condensed ones: those of evaluate's rows, of all classes."""
        draw = generator(self.run.recipe.seed, "evaluate", "random-real", seed)
        chosen = random_subset(self._train.labels, self.run.recipe.recover.ipc, len(self._names), draw)
        return source_images(self.run, self._train, self._frame, chosen)

    def _row(self, training: Training, labeller: Labeller) -> TrainingSet:
        images, augment, seed = self.memory(training), self.run.recipe.relabel.augment, self._seed(training)
        pixels = to_device_if_it_fits(images.pixels, self.run.device)

        def epoch(index: int) -> Epoch:
            return sampled_epoch(pixels, labeller, augment, seed, index)

        hard = training.memory.endswith("hard") or self.run.recipe.evaluate.loss == "hard"
        return TrainingSet(images.labels, epoch, hard)

    def labeller(self, step: int) -> Labeller:
        """Who labels after a step: float32 [B, K''], a logit for each known class."""
        if self._last is None or self._last[0] != step:
            run, own = self.run, self.setting.labels
            asked = [self.teachers.load(step)] if own == "step" else self._classifiers
            made = make_labeller(asked, run.engine, run.device, run.recipe.relabel.group_size)
            self._last = step, restricted(made, self.seen(step)) if own == "seen" else made
        return self._last[1]
