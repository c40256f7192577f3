"""How networks compute: their precision, memory layout and compilation, the same way on every device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn


Precision = Literal["float32", "bfloat16"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
RECOMPILE_LIMIT = 1000  # torch's default of 8 is less than the networks and batch sizes that one process meets


@dataclass(frozen=True)
class Engine:
    """How a run computes.

    Attributes:
        precision: data type of convolutions and matrix products. Weights, statistics and losses are float32.
        compiled: whether the functions that run once a step are compiled by torch.compile; on CUDA as CUDA graphs.
    """

    precision: Precision = "float32"
    compiled: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context manager in which networks compute in the engine's precision."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def network(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the model as a function from pixel values [B, 3, H, W] to logits [B, K], at least float32.

        The model is converted to channels_last in place.
        """
        return self.compile_if_enabled(Network(self, to_channels_last(model)))

    def compile_if_enabled(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return the function, compiled if this engine compiles. New tensor shapes compile it again."""
        if not self.compiled:
            return function
        # Beyond its limit torch would silently run uncompiled. Raise the limit, and fail if even that is reached.
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(function, dynamic=False, mode="reduce-overhead")


@dataclass(frozen=True)
class Network:
    """A model as a function from pixel values to logits. Unlike a closure it can be pickled for another process."""

    engine: Engine
    model: nn.Module

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Return logits [B, K], at least float32, of pixel values [B, 3, H, W]."""
        with self.engine.autocast(pixel_values.device):
            return at_least_float32(self.model(pixel_values.contiguous(memory_format=torch.channels_last)).logits)


FLOAT32 = Engine()
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_channels_last(model: nn.Module) -> nn.Module:
    """Convert the model in place to channels_last and select the fastest attention implementation; return it."""
    # Imported here because transformers imports accelerate, which `load_condensed` must not.
    from transformers import PreTrainedModel

    # A network of which some logits are selected is inside another module.
    network = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if network is not None and next(network.parameters()).device.type == "cpu":
        # torch's fused attention in bfloat16 on a CPU makes a whole step take twice as long.
        network.set_attn_implementation("eager")
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def at_least_float32(x: Tensor) -> Tensor:
    """Return x as float32 if its dtype is narrower, else unchanged (float64 stays float64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def best_precision() -> Precision:
    """Return bfloat16 if this machine's processor or GPU has instructions for it, else float32.

    Without such instructions bfloat16 is emulated, which is slower than float32.
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # torch has no public function that reports these instructions.
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"
