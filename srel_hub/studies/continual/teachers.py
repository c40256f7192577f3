"""Teachers that know only the classes seen so far: one for each step, trained by one process on their real images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from srel_hub.core.optim import batch_count, make_optimizer, require_finite
from srel_hub.core.seeds import derive_seed
from srel_hub.data.splits import Images, Split, channel_statistics
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.squeeze import train
from srel_hub.storage.files import atomic_write
from srel_hub.studies.continual.protocol import Setting, remapped, rows_of
from srel_hub.teachers import architectures as networks
from srel_hub.teachers.classifier import Classifier


NORMALIZATION = "normalization"  # float64 [2, 3], mean and std, beside the weights


@dataclass(frozen=True)
class StepTeachers:
    """The teachers of a run's steps.

    Attributes:
        like: the run's teacher: all classes' names, and the frame of the images.
        split: the real training split.
        folder: where they are kept.
    """

    run: Run
    setting: Setting
    like: Classifier
    split: Split
    folder: Path

    def train_missing(self) -> None:
        """Train those that are not there yet; dealt out to the processes, each by one alone."""
        names = {f"{self.folder.name}-teacher-{step + 1}": step for step in range(self.setting.steps)}
        spec = self.run.recipe.squeeze
        batches = {
            name: spec.epochs * batch_count(len(rows_of(self.split.labels, self._seen(step))), spec.batch_size)
            for name, step in names.items()
        }
        with WorkQueue(self.run, "continual", batches, "batch") as work:
            for name in work:
                self._train(names[name], name, work)

    def load(self, step: int) -> Classifier:
        """A step's teacher, in eval mode: of the classes seen, in the order in which they came."""
        weights = load_file(self._file(step))
        mean, std = weights.pop(NORMALIZATION).tolist()
        made = self._untrained(step, mean, std)
        made.model.load_state_dict(weights)
        made.model.eval().requires_grad_(False)
        return made

    def _seen(self, step: int) -> torch.Tensor:
        return torch.tensor(self.setting.seen(len(self.like.class_names))[step])

    def _file(self, step: int) -> Path:
        return self.folder / f"teacher-{step + 1}.safetensors"

    def _seed(self, step: int) -> int:
        return derive_seed(self.run.recipe.seed, "continual", "teacher", step)

    def images(self, step: int) -> Images:
        """The real training images of the classes seen, their labels as places in the order in which these came."""
        rows = rows_of(self.split.labels, self._seen(step))
        return remapped(source_images(self.run, self.split, self.like.frame, rows), self._seen(step))

    def _untrained(self, step: int, mean: Sequence[float], std: Sequence[float]) -> Classifier:
        names = tuple(self.like.class_names[index] for index in self._seen(step))
        model = networks.build(self.run.recipe.squeeze.network, names, self.like.size, self._seed(step))
        (r, g, b), (dr, dg, db) = mean, std
        return Classifier(model.to(self.run.device), (r, g, b), (dr, dg, db), names, self.like.size)

    def _train(self, step: int, name: str, work: WorkQueue) -> None:
        run, spec, seed = self.run, self.run.recipe.squeeze, self._seed(step)
        images = self.images(step)
        mean, std = channel_statistics(images.pixels)
        made = self._untrained(step, mean, std)
        file = run.path("checkpoints", f"continual-{name}")
        checkpoint = Checkpoint(file, made.model, make_optimizer(made.model, spec.optimizer))
        checkpoint.restore()
        behind = checkpoint.epochs * batch_count(len(images.labels), spec.batch_size)
        for each in work.steps(train(made, checkpoint, images, spec, seed, None, run.engine), behind):
            if each.last:
                loss = require_finite(each.loss, f"continual, {name}, epoch {each.epoch}", "squeeze.optimizer.lr")
                checkpoint.add(True, epoch=each.epoch, loss=loss, lr=each.lr)
        # Not save_pretrained, which writes nothing in any but a launch's first process.
        kept = {key: value.cpu().contiguous() for key, value in made.model.state_dict().items()}
        with atomic_write(self._file(step)) as temporary:
            save_file({**kept, NORMALIZATION: torch.tensor([mean, std], dtype=torch.float64)}, temporary)
        work.done([self._file(step)], classes=len(made.class_names), train_images=len(images.labels))
        checkpoint.remove()
