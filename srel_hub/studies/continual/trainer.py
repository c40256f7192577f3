"""Train and evaluate the students of a continual-learning study."""

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
from srel_hub.studies.continual.protocol import (
    Setting,
    Training,
    remap_labels,
    restrict_labeller,
    rows_of_classes,
    select_classes,
)
from srel_hub.studies.continual.teachers import StepTeachers
from srel_hub.teachers.architectures import build
from srel_hub.teachers.classifier import Classifier


class ContinualTrainer:
    """Trains the students of one run and setting.

    A student has one logit per output. Its outputs are the classes seen so far, or all classes with `labels='all'`
    (`outputs`). Labels of memories and test images are indices of these outputs.

    Args:
        run: The run, which has the condensed images, keeps the checkpoints and sets the device and precision.
        setting: The options of the study.
        source: The real data, with training and eval split.
        classifiers: The networks that compute the run's soft labels, the teacher first.
        folder: The folder of results.

    Attributes:
        run: The run.
        teachers: The teachers of all steps; used only with `labels='step'`.
    """

    def __init__(
        self, run: Run, setting: Setting, source: Source, classifiers: Sequence[Classifier], folder: Path
    ) -> None:
        assert source.train is not None and source.eval is not None
        recipe = run.recipe
        self._spec, self._relabel = recipe.evaluate, recipe.relabel
        self._ipc, self._seed = recipe.recover.ipc, recipe.seed
        self.run, self._folder, self._labels = run, folder, setting.labels
        self._classifiers, self._train_split, self._eval_split = classifiers, source.train, source.eval
        self._frame, self._names = classifiers[0].frame, classifiers[0].class_names
        self._seen = [torch.tensor(classes) for classes in setting.seen(len(self._names))]
        self.teachers = StepTeachers(run, recipe.squeeze, recipe.seed, setting, classifiers[0], source.train, folder)
        self._cached_labeller: tuple[int, Labeller] | None = None  # of the last step, loaded once for all its memories

    def outputs(self, step: int) -> Tensor:
        """Return the class of each logit of a student after a step, int64 [C]."""
        return torch.arange(len(self._names)) if self._labels == "all" else self._seen[step]

    def train(self, training: Training, work: WorkQueue) -> None:
        """Train one student, evaluate it after the last epoch and write its result file.

        Args:
            training: The training to run.
            work: The queue that assigned the training to this process.
        """
        run, spec, labeller = self.run, self._spec, self.labeller(training.step)
        test, training_set = self.test_images(training.step), self._training_set(training, labeller)
        model = self.student(training).to(run.device)
        student = Student(model, spec)
        file = run.path("checkpoints", f"continual-{self._folder.name}-{training.name}")
        checkpoint = Checkpoint(file, student.state, make_optimizer(model, spec.optimizer))
        checkpoint.restore()
        epochs = train_student(
            student, run.engine.network(model), training_set, spec, self._student_seed(training), checkpoint
        )
        for loss in work.steps(epochs, checkpoint.epochs):
            checkpoint.add(True, epoch=checkpoint.epochs, loss=loss)
        top1, _ = accuracy(student.scored, test.pixels, test.labels, labeller.table)
        result = {"top1": top1, "images": len(training_set.labels), "eval_images": len(test.labels)}
        result |= {"classes": len(self._seen[training.step])}
        result_file = self._folder / f"{training.name}.json"
        write_json(result_file, result)
        work.done([result_file], **result)
        checkpoint.remove()

    def _student_seed(self, training: Training) -> int:
        # The memory is left out, so that students of all memories start from the same weights.
        return derive_seed(self._seed, "continual", training.step, training.seed)

    def student(self, training: Training) -> Any:
        """Return an untrained student on the CPU: the first of `evaluate.students`, with a logit per output."""
        names = [self._names[index] for index in self.outputs(training.step)]
        return build(self._spec.students[0], names, self._frame.size, self._student_seed(training))

    def test_images(self, step: int) -> Images:
        """Return the real eval images of the classes seen so far; labels are indices of the outputs."""
        rows = rows_of_classes(self._eval_split.labels, self._seen[step])
        return remap_labels(source_images(self.run, self._eval_split, self._frame, rows), self.outputs(step))

    def memory(self, training: Training) -> Images:
        """Return the memory of the classes seen so far; labels are indices of the outputs.

        Images that are in the memory at one step stay in the memory at all later steps.
        """
        images = condensed_images(self.run) if training.is_condensed else self._random_real(training.seed)
        return remap_labels(select_classes(images, self._seen[training.step]), self.outputs(training.step))

    def _random_real(self, seed: int) -> Images:
        # The same draw as in evaluate, so that both stages compare with the same real images.
        draw = generator(self._seed, "evaluate", "random-real", seed)
        chosen = random_subset(self._train_split.labels, self._ipc, len(self._names), draw)
        return source_images(self.run, self._train_split, self._frame, chosen)

    def _training_set(self, training: Training, labeller: Labeller) -> TrainingSet:
        images, augment, seed = self.memory(training), self._relabel.augment, self._student_seed(training)
        pixels = to_device_if_it_fits(images.pixels, self.run.device)

        def epoch(index: int) -> Epoch:
            return sampled_epoch(pixels, labeller, augment, seed, index)

        return TrainingSet(images.labels, epoch, hard=training.is_hard or self._spec.loss == "hard")

    def labeller(self, step: int) -> Labeller:
        """Return the labeller of a step, which computes float32 logits [B, C], one per output."""
        if self._cached_labeller is None or self._cached_labeller[0] != step:
            classifiers = [self.teachers.load(step)] if self._labels == "step" else self._classifiers
            labeller = make_labeller(classifiers, self.run.engine, self.run.device, self._relabel.group_size)
            if self._labels == "seen":
                labeller = restrict_labeller(labeller, self._seen[step])
            self._cached_labeller = step, labeller
        return self._cached_labeller[1]
