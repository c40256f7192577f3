"""A network of the user's own code, as an image classifier of transformers.

The weights are in the repository, the code is not part of transformers or srel_hub: `config.json` names a factory such
as `my_net:build`, a function or class in the file `my_net.py`, of which the repository has a copy. Loading a classifier
never imports this file. A program that trusts the file imports it itself and allows it:

    import my_net  # read it first, because importing it runs it
    from srel_hub.models.own import allow

    allow(my_net)
    model = AutoModelForImageClassification.from_pretrained("org/my-teacher")
"""

import hashlib
import inspect
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


PREFIX = "network."  # of the user's tensors in model.safetensors
_ALLOWED: dict[str, ModuleType] = {}  # by the name of the file, without .py


class OwnNetworkError(ValueError):
    """The user's code is not allowed to run, is not the code of the weights, or failed. The message is one line."""


class NotAllowedError(OwnNetworkError):
    """The user has not allowed the code that a network needs."""


@strict
class SrelOwnConfig(PreTrainedConfig):
    """The code that builds the network.

    Attributes:
        factory: Module and function (or class), such as `my_net:build`.
        source_sha256: The sha256 of the module's file.
    """

    model_type = "srel_own"
    factory: str = ""
    source_sha256: str = ""


class SrelOwnForImageClassification(PreTrainedModel):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels].

    Attributes:
        network: The user's module.
    """

    config_class = SrelOwnConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.network = build(config.factory, config.source_sha256, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the initial weights that the user's code chose."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load the weights as for any model of transformers, and keep buffers that are not stored with them."""
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        # transformers fills buffers with persistent=False with whatever is in memory.
        fresh = build(model.config.factory, model.config.source_sha256, model.config.num_labels)
        stored = model.network.state_dict().keys()
        for name, buffer in fresh.named_buffers():
            if name not in stored:
                model.network.get_buffer(name).copy_(buffer)
        return loaded

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return `logits` [B, num_labels] and, with `labels` int64 [B], the mean cross-entropy as `loss`."""
        output = self.network(pixel_values)
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise OwnNetworkError(
                f"the network of {self.config.factory} must return a tensor of logits [B, {self.config.num_labels}], "
                f"or an output with `logits`, but returns {type(output).__name__}"
            )
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def allow(module: ModuleType) -> None:
    """Allow the functions of an imported module to build networks, in this process.

    Args:
        module: The user's module, imported from one file.
    """
    _ALLOWED[source_file(module).stem] = module


def source_file(module: ModuleType) -> Path:
    """Return the file of a module.

    Raises:
        OwnNetworkError: If the module is not one Python file.
    """
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or Path(file).name == "__init__.py":
        raise OwnNetworkError(f"the module {module.__name__} is not one file of Python code (.py)")
    return Path(file).resolve()


def allowed_file(factory: str) -> Path:
    """Return the file of a factory's module.

    Raises:
        NotAllowedError: If the module is not allowed.
    """
    name = factory.partition(":")[0]
    if name not in _ALLOWED:
        raise NotAllowedError(
            f"its network is built by {factory}, the author's own code, which srel_hub never runs unasked; read "
            f"{name}.py (a copy is beside the weights), put it into the current folder, and allow it with "
            f"run.imports=[{name}] in a recipe, --import {name} for verify, or srel_hub.models.own.allow in Python"
        )
    return source_file(_ALLOWED[name])


def digest(file: Path) -> str:
    """Return the sha256 of a source file, as 64 hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def build(factory: str, source_sha256: str, num_classes: int) -> nn.Module:
    """Build a network on the CPU, with the initial weights that the user's code chooses.

    Args:
        factory: Module and function (or class), such as `my_net:build`. `num_classes` is passed to it if it has a
            parameter of this name.
        source_sha256: The sha256 that the module's file must have; '' for any.
        num_classes: K.

    Raises:
        NotAllowedError: If the module is not allowed.
        OwnNetworkError: If its file has another sha256, or the factory does not exist, fails or returns no module.
    """
    name, _, function = factory.partition(":")
    file = allowed_file(factory)
    actual = digest(file)
    if source_sha256 not in ("", actual):
        raise OwnNetworkError(
            f"{file.name} is not the file that the weights were saved with: its sha256 is {actual[:12]}..., expected "
            f"{source_sha256[:12]}...; use the {file.name} beside the weights"
        )
    maker = getattr(_ALLOWED[name], function, None)
    if not callable(maker):
        raise OwnNetworkError(f"{file.name} has no function or class {function}")
    try:
        # Explicitly on the CPU: transformers builds on the meta device, where code like `x.item()` fails.
        with torch.device("cpu"):
            network = maker(**arguments(maker, factory, num_classes))
    except OwnNetworkError:
        raise
    except Exception as error:  # it is the user's code
        raise OwnNetworkError(f"{factory} failed: {describe(error, file)}") from error
    if not isinstance(network, nn.Module):
        raise OwnNetworkError(f"{factory} must return a torch.nn.Module, but returns {type(network).__name__}")
    return network


def arguments(maker: Any, factory: str, num_classes: int) -> dict[str, int]:
    """Return the arguments for a factory: `num_classes` if it has this parameter.

    Raises:
        OwnNetworkError: If it requires any other argument.
    """
    try:
        parameters = inspect.signature(maker).parameters
    except (ValueError, TypeError):  # of a callable that is not written in Python
        parameters = {}  # type: ignore[assignment]
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if others := [name for name in required if name != "num_classes"]:
        raise OwnNetworkError(
            f"{factory} requires the arguments {', '.join(others)}, but is called with num_classes at most; give them "
            "default values"
        )
    return {"num_classes": num_classes} if "num_classes" in parameters else {}


def describe(error: BaseException, file: Path) -> str:
    """Return type and message of an error in one line, with the last line of the user's file that led to it."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file.name
    ]
    message = " ".join(str(error).split())[:300]
    place = f" ({file.name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{place}"
