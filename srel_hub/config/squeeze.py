"""The recipe's section `squeeze`: the teacher, trained here or pretrained."""

from dataclasses import dataclass, field

from srel_hub.config.fields import STRICT, AtLeastTwo, Count
from srel_hub.config.networks import Network, Teacher
from srel_hub.config.training import Augment, Optimizer, check_warmup


@dataclass(frozen=True, kw_only=True)
class Squeeze:
    """The teacher, from which the images are recovered (SRe2L, section 3.1): trained here, or `pretrained`."""

    __pydantic_config__ = STRICT

    pretrained: Teacher | None = None
    """An existing classifier of the same classes; nothing is trained and the fields from `network` on are ignored.
    null: train `network`."""

    trust_class_order: bool = False
    """Whether to assume that class i of the pretrained teacher is class i of the dataset. false: stop unless their
    names, or the teacher's accuracy on the eval split, show it."""

    network: Network = field(default_factory=Network)
    """The network to train."""

    epochs: Count = 200
    """Passes over the training split."""

    batch_size: AtLeastTwo = 128
    """Images of an optimizer step, over all processes together."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizer and learning rate schedule of the training."""

    augment: Augment = field(default_factory=lambda: Augment(crop="padded"))
    """Augmentation of the training images."""

    def __post_init__(self) -> None:
        if self.pretrained is None:
            check_warmup(self.optimizer, self.epochs)
