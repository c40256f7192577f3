"""config.squeeze."""

from dataclasses import dataclass, field

from srel_hub.config.fields import STRICT, AtLeastTwo, Count
from srel_hub.config.networks import Network, Teacher
from srel_hub.config.training import Augment, Optimizer, _check_warmup


@dataclass(frozen=True, kw_only=True)
class Squeeze:
    """The network that the images are recovered from: trained here, or `pretrained`, and then nothing is trained."""

    __pydantic_config__ = STRICT
    pretrained: Teacher | None = None  # a classifier that exists; null: `network` is trained
    trust_class_order: bool = False  # true: the teacher's class i is the dataset's class i, whatever the names say
    network: Network = field(default_factory=Network)  # what is trained
    epochs: Count = 200  # over the training split
    batch_size: AtLeastTwo = 128  # shared by all processes of a launch
    optimizer: Optimizer = field(default_factory=Optimizer)  # of the training
    augment: Augment = field(default_factory=lambda: Augment(crop="padded"))  # of the training images

    def __post_init__(self) -> None:
        if self.pretrained is None:
            _check_warmup(self.optimizer, self.epochs)
