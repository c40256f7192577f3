"""Train a teacher for each step, on the real images of the classes seen so far."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srel_hub.config import Squeeze
from srel_hub.core.optim import batch_count, make_optimizer, require_finite
from srel_hub.core.seeds import derive_seed
from srel_hub.data.splits import Images, Split, channel_statistics
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.squeeze import train
from srel_hub.storage.files import atomic_write
from srel_hub.studies.continual.protocol import Setting, remap_labels, rows_of_classes
from srel_hub.teachers.architectures import build
from srel_hub.teachers.classifier import Classifier


NORMALIZATION = "normalization"  # name of a tensor float64 [2, 3], mean and standard deviation, beside the weights


class StepTeachers:
    """The teachers of all steps, one file each in the folder of results.

    Unlike in squeeze, one process alone trains each teacher, so that processes work on different steps.

    Args:
        run: The run, which keeps the checkpoints and sets the device and precision of the training.
        spec: The training settings (section `squeeze`).
        seed: The recipe's seed.
        setting: The options of the study, which set the order of the classes.
        run_teacher: The run's teacher, for the names of all classes and the size of the images.
        split: The real training split.
        folder: The folder of the teachers.
    """

    def __init__(
        self,
        run: Run,
        spec: Squeeze,
        seed: int,
        setting: Setting,
        run_teacher: Classifier,
        split: Split,
        folder: Path,
    ) -> None:
        self._run, self._spec, self._seed, self._folder = run, spec, seed, folder
        self._frame, self._names, self._split = run_teacher.frame, run_teacher.class_names, split
        self._seen = [torch.tensor(classes) for classes in setting.seen(len(self._names))]

    def train_missing(self) -> None:
        """Train the teachers that are not complete yet, shared among the processes of the run."""
        names = {f"{self._folder.name}-teacher-{step + 1}": step for step in range(len(self._seen))}
        batches = {
            name: self._spec.epochs * self._batches(len(rows_of_classes(self._split.labels, self._seen[step])))
            for name, step in names.items()
        }
        with WorkQueue(self._run, "continual", batches, "batch") as work:
            for name in work:
                self._train(names[name], name, work)

    def load(self, step: int) -> Classifier:
        """Return a step's teacher in eval mode. Its classes are the classes seen so far, in their order of arrival."""
        weights = load_file(self._file(step))
        mean, std = weights.pop(NORMALIZATION).tolist()
        teacher = self._untrained(step, mean, std)
        teacher.model.load_state_dict(weights)
        teacher.model.eval().requires_grad_(False)
        return teacher

    def images(self, step: int) -> Images:
        """Return the real training images of the classes seen so far. Labels are indices in the order of arrival."""
        rows = rows_of_classes(self._split.labels, self._seen[step])
        return remap_labels(source_images(self._run, self._split, self._frame, rows), self._seen[step])

    def _batches(self, images: int) -> int:
        return batch_count(images, self._spec.batch_size)

    def _file(self, step: int) -> Path:
        return self._folder / f"teacher-{step + 1}.safetensors"

    def _step_seed(self, step: int) -> int:
        return derive_seed(self._seed, "continual", "teacher", step)

    def _untrained(self, step: int, mean: Sequence[float], std: Sequence[float]) -> Classifier:
        names = tuple(self._names[index] for index in self._seen[step])
        size = self._frame.size
        model = build(self._spec.network, names, size, self._step_seed(step))
        (r, g, b), (dr, dg, db) = mean, std
        return Classifier(model.to(self._run.device), (r, g, b), (dr, dg, db), names, size)

    def _train(self, step: int, name: str, work: WorkQueue) -> None:
        run, seed = self._run, self._step_seed(step)
        images = self.images(step)
        mean, std = channel_statistics(images.pixels)  # those of all classes would tell about future ones
        teacher = self._untrained(step, mean, std)
        file = run.path("checkpoints", f"continual-{name}")
        checkpoint = Checkpoint(file, teacher.model, make_optimizer(teacher.model, self._spec.optimizer))
        checkpoint.restore()
        done = checkpoint.epochs * self._batches(len(images.labels))
        for batch in work.steps(train(teacher, checkpoint, images, self._spec, seed, None, run.engine), done):
            if batch.last:
                where = f"continual, {name}, epoch {batch.epoch}"
                loss = require_finite(batch.loss, where, "squeeze.optimizer.lr")
                checkpoint.add(True, epoch=batch.epoch, loss=loss, lr=batch.lr)
        self._save(step, teacher.model.state_dict(), mean, std)
        work.done([self._file(step)], classes=len(teacher.class_names), train_images=len(images.labels))
        checkpoint.remove()

    def _save(self, step: int, state: dict[str, Tensor], mean: Sequence[float], std: Sequence[float]) -> None:
        # transformers' save_pretrained would write nothing in any but the first process of a launch.
        weights = {key: value.cpu().contiguous() for key, value in state.items()}
        normalization = torch.tensor([mean, std], dtype=torch.float64)
        with atomic_write(self._file(step)) as temporary:
            save_file({**weights, NORMALIZATION: normalization}, temporary)
