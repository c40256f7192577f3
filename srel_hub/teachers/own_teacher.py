"""`save_teacher`: write any torch module as a teacher that recipes, `verify` and transformers can load."""

import copy
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub.errors import ErrorCollector, UserError, first_few, first_line
from srel_hub.models import own
from srel_hub.storage.files import atomic_write
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.classifier import Classifier, require_repeatable
from srel_hub.teachers.own_code import import_file


CPU = torch.device("cpu")
CHECKED_IMAGES = 2  # random images on which the module and the saved teacher must agree


def save_teacher(
    module: nn.Module,
    folder: str | Path,
    *,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    size: int | tuple[int, int],
    source: str | Path,
    factory: str = "build",
) -> Path:
    """Save a torch module as a teacher, for `squeeze.pretrained`, `relabel.teacher` and the Hub.

    The folder gets the weights, the class names, the normalization and a copy of the file `source`. To load the weights
    again, srel_hub calls a function or class in this file. So the file must contain all of the network's code, and
    recipes that use the teacher must allow it with `run.imports`.

    Args:
        module: A trained network that maps images float [B, 3, H, W] to logits [B, K], or to an output with `logits`.
        folder: The folder to write. It must not exist, or be empty.
        class_names: The names of the K classes, by index.
        mean: The mean of each RGB channel that the network was trained with, from 0 to 1.
        std: The standard deviation of each RGB channel that the network was trained with.
        size: The side in pixels of the images that the network was trained on, or (height, width).
        source: The Python file with the network's code, such as `my_net.py`. It is imported, unless it already is.
        factory: The function or class in `source` that builds the network. It is called with `num_classes` if it has a
            parameter of this name, and without arguments otherwise.

    Returns:
        The folder.

    Raises:
        UserError: If an argument is not valid, or the network that the factory builds does not give the same logits as
            the module. The message lists all problems, and nothing is written.

    Examples:
        >>> from pathlib import Path
        >>> from srel_hub import save_teacher
        >>> code = '''
        ... from torch import nn
        ...
        ... def build(num_classes):
        ...     layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ...     return nn.Sequential(*layers, nn.Linear(8, num_classes))
        ... '''
        >>> size = Path("tiny_net.py").write_text(code)
        >>> from tiny_net import build
        >>> network = build(2)  # train it here
        >>> names, mean, std = ["cat", "dog"], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
        >>> save_teacher(network, "tiny", class_names=names, mean=mean, std=std, size=32, source="tiny_net.py").name
        'tiny'
    """
    folder, source = Path(folder), Path(source)
    problems = ErrorCollector()
    problems.extend(_problems(module, folder, class_names, mean, std, size))
    with problems.collect():
        import_file(source)
    problems.raise_all()
    height, width = (size, size) if isinstance(size, int) else size
    red, green, blue = (float(value) for value in mean)
    deviations = float(std[0]), float(std[1]), float(std[2])
    model = _rebuilt(module, f"{source.stem}:{factory}", source, len(class_names))
    classifier = Classifier(model, (red, green, blue), deviations, tuple(class_names), (height, width))
    _write(classifier, module, folder, f"source={source}")
    return folder


def _problems(
    module: object,
    folder: Path,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    size: int | tuple[int, int],
) -> list[str]:
    """Return what is wrong with the arguments of `save_teacher`."""
    problems = []
    if not isinstance(module, nn.Module):
        problems.append(f"module={module!r:.80}: must be a torch.nn.Module")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"folder={folder}: it already has files; choose a new folder, or remove this one")
    if isinstance(class_names, str) or not class_names:
        problems.append(f"class_names={class_names!r:.80}: must be a list with the name of every class")
    else:
        texts = [name for name in class_names if isinstance(name, str) and name.strip() == name != ""]
        if len(texts) != len(class_names):
            problems.append("class_names: every name must be text, without spaces at its ends")
        repeated = sorted({name for name in texts if texts.count(name) > 1})
        problems += [f"class_names: {name!r} occurs twice; give each class its own name" for name in repeated[:3]]
    for name, values, limits in (("mean", mean, "from 0 to 1"), ("std", std, "greater than 0")):
        is_list = not isinstance(values, str) and isinstance(values, Sequence | Tensor) and len(values) == 3
        numbers = [float(value) for value in values if _is_number(value)] if is_list else []
        is_valid = len(numbers) == 3 and all(0 <= n <= 1 if name == "mean" else 0 < n < math.inf for n in numbers)
        if not is_valid:
            problems.append(f"{name}={values!r:.80}: must be three numbers, one per RGB channel, {limits}")
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        problems.append(f"size={size!r}: must be the side of the images in pixels, or (height, width)")
    return problems


def _is_number(value: object) -> bool:
    is_scalar = isinstance(value, Tensor) and value.ndim == 0
    return is_scalar or (isinstance(value, Real) and not isinstance(value, bool))


def _rebuilt(module: nn.Module, factory: str, source: Path, num_classes: int) -> own.SrelOwnForImageClassification:
    """Return the network that the factory builds, with the module's weights.

    Raises:
        UserError: If the factory fails, or builds a network with other weights.
    """
    where = f"source={source}"
    file = own.allowed_file(factory)
    config = own.SrelOwnConfig(factory=factory, source_sha256=own.digest(file), num_labels=num_classes)
    try:
        rebuilt: Any = own.SrelOwnForImageClassification(config)
    except own.OwnNetworkError as error:
        hint = "" if "has no function" not in str(error) else "; name the function or class with factory="
        raise UserError(f"{where}: {error}{hint}") from None
    state, expected = module.state_dict(), rebuilt.network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"{where}: {factory} builds a network without {name}" for name in state if name not in expected]
    problems += [
        f"{where}: {factory} builds a network with {name}, which the module lacks"
        for name in expected.keys() - state.keys()
    ]
    problems += [
        f"{where}: {factory} builds {name} with the shape {list(expected[name].shape)}, but that of the module is "
        f"{list(shape)}"
        for name, shape in shapes.items()
        if name in expected and tuple(expected[name].shape) != shape
    ]
    if problems:
        raise UserError("\n".join(first_few(sorted(problems))))
    rebuilt.network.load_state_dict(state)
    return rebuilt.float().eval()  # type: ignore[no-any-return]


@torch.no_grad()
def _write(classifier: Classifier, module: nn.Module, folder: Path, where: str) -> None:
    """Write a teacher, load it again, and compare its logits with the module's before the folder appears.

    Raises:
        UserError: If the module fails or returns a wrong number of logits, or if the saved teacher returns others.
    """
    height, width = classifier.size
    images = torch.randn(CHECKED_IMAGES, 3, height, width, generator=torch.Generator().manual_seed(0))
    require_repeatable(classifier.model, len(classifier.class_names), classifier.size, where)
    original: Any = copy.deepcopy(classifier.model)
    original.network = copy.deepcopy(module).to(CPU, torch.float32)
    expected = original.eval()(images).logits
    if not expected.isfinite().all():
        raise UserError("module: its logits for random images are not finite; train it first")
    with atomic_write(folder) as temporary:
        try:
            classifiers.save(classifier, temporary)
        except (RuntimeError, ValueError) as error:  # of safetensors, if two names share a tensor
            raise UserError(f"module: its weights cannot be saved: {first_line(error)}") from None
        actual = classifiers.load(temporary, CPU).model(images).logits
        if not torch.allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            difference = float((actual - expected).abs().max())
            raise UserError(
                f"{where}: {original.config.factory} with the module's weights returns other logits than the "
                f"module (difference up to {difference:.3g}); it must build the network with the same options"
            )
