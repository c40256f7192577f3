"""How networks compute: in which precision, and whether they are compiled; one path for every device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn


Precision = Literal["float32", "bfloat16"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
RECOMPILE_LIMIT = 1000


@dataclass(frozen=True)
class Engine:
    """Attributes:
    precision: of convolutions and matrix products; weights, statistics and losses are float32.
    compiled: whether what is called once a step goes through torch.compile, on CUDA as CUDA graphs.
    """

    precision: Precision = "float32"
    compiled: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Within it, networks compute in the engine's precision."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def network(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The model's logits [B, K], at least float32, of pixel values [B, 3, H, W]; the model is laid out anew."""
        return self.fast(Network(self, to_channels_last(model)))

    def fast(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The function, compiled if this engine compiles; its shapes stay the same from call to call."""
        if not self.compiled:
            return function
        # A process meets more networks and batch sizes than the default allows, after which it would go on uncompiled.
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(function, dynamic=False, mode="reduce-overhead")


@dataclass(frozen=True)
class Network:
    """A model as a function from pixel values to logits; it can be sent to another process."""

    engine: Engine
    model: nn.Module

    def __call__(self, pixel_values: Tensor) -> Tensor:
        with self.engine.autocast(pixel_values.device):
            return at_least_float32(self.model(pixel_values.contiguous(memory_format=torch.channels_last)).logits)


FLOAT32 = Engine()
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_channels_last(model: nn.Module) -> nn.Module:
    """The model itself, its weights in the order in which convolutions are fastest, its attention as it is fastest."""
    # Imported here because transformers imports accelerate, which `load_condensed` must not.
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel) and next(model.parameters()).device.type == "cpu":
        model.set_attn_implementation("eager")  # torch's fused one, in bfloat16 on a CPU, takes twice a whole step
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def at_least_float32(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def best_precision() -> Precision:
    """bfloat16 where this machine's processor or GPU has instructions for it; elsewhere it is slower than float32."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"
