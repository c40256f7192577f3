"""Files of weights: choose the file of a teacher, and read its tensors without running code from it."""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from srel_hub.errors import UserError, first_line
from srel_hub.storage.files import require_no_pointer


PICKLED = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLED)
ZIP, PICKLE = b"PK", b"\x80"  # how a file of torch.save begins, since and before torch 1.6
MAIN, INDEX = "model.safetensors", "model.safetensors.index.json"
# Under these keys, training scripts store the weights beside an optimizer and other values. The first one is used: an
# average such as `state_dict_ema` is another set of weights.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "timm_model.")  # of torch's and other wrappers
SAVE = "save its weights alone, with torch.save(model.state_dict(), 'weights.pth')"


def choose_files(path: Path, where: str) -> list[Path]:
    """Return the files with the weights of a teacher: one file, or all parts of a sharded one.

    Args:
        path: A file, which is used as it is, or a folder. Of a folder, `model.safetensors` or its parts are used. Any
            other file must be the only one.
        where: The recipe's field and value, which begin the message.

    Raises:
        UserError: If there are no weights, or several files to choose from, or a part is missing.
    """
    if path.is_file():
        return [path]
    if (path / MAIN).is_file():
        return [path / MAIN]
    if (path / INDEX).is_file():
        return _parts(path / INDEX, where)
    files = sorted(path.glob("*.safetensors"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise UserError(f"{where}: it has several files of weights ({names}); name one, such as {path / files[0].name}")
    if not files:
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        hint = ""
        if pickled:
            hint = (
                f"; pickled weights of a folder are never loaded: name the file {pickled[0]} itself, or save the model "
            )
            hint += "with transformers' save_pretrained, which writes safetensors"
        raise UserError(f"{where}: it has no .safetensors weights{hint}")
    return files


def _parts(index: Path, where: str) -> list[Path]:
    """Return the parts that the index of a sharded file names."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where}: its {index.name} is not an index of weights") from None
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise UserError(f"{where}: its {index.name} names {', '.join(missing[:3]) or 'no file'}, which is missing")
    return files


def read_tensors(files: list[Path], where: str) -> dict[str, Tensor]:
    """Return all tensors of the files, by name.

    Raises:
        UserError: If a file is damaged, or contains other objects than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        _require_downloaded(file, where)
        tensors |= _read_pickled(file, where) if file.suffix in PICKLED else _read_safetensors(file, where)
    if not tensors:
        raise UserError(f"{where}: it contains no tensors")
    return tensors


def _require_downloaded(file: Path, where: str) -> None:
    try:
        require_no_pointer(file)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def require_floating_point(files: list[Path], where: str) -> None:
    """Check that the weights in safetensors files are not integers, which transformers would convert silently.

    Raises:
        UserError: If a tensor that is not a counter has integers. The message names it.
    """
    for file in files:
        _require_downloaded(file, where)
        try:
            with safe_open(file, "pt") as content:
                types = {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return  # reported when the weights are loaded
        for name, kind in types.items():
            if kind.startswith(("I", "U", "BOOL")) and name.endswith((".weight", ".bias")):
                raise UserError(f"{where}: its weights have {name} as {kind}, which are not floating-point numbers")


def _read_safetensors(file: Path, where: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{where}: {file.name} is not a safetensors file: {first_line(error)}") from None


def _read_pickled(file: Path, where: str) -> dict[str, Tensor]:
    """Return the weights in a file of torch.save, without running the code that such a file may contain."""
    with file.open("rb") as stream:
        if not stream.read(len(ZIP)).startswith((ZIP, PICKLE)):
            raise UserError(f"{where}: {file.name} is not a file of torch.save")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error) and "GLOBAL" not in str(error) and "weights_only" not in str(error).lower():
            raise UserError(f"{where}: {file.name} is not a file of torch.save: {first_line(error)}") from None
        raise UserError(
            f"{where}: {file.name} contains Python objects besides tensors, such as a whole module, which are never "
            f"loaded, because loading them runs code; {SAVE}"
        ) from None
    except Exception as error:  # damaged files make torch raise almost any exception
        if "TorchScript" in str(error):
            raise UserError(f"{where}: {file.name} is a TorchScript archive, which is a program; {SAVE}") from None
        raise UserError(f"{where}: {file.name} is not a file of torch.save: {first_line(error)}") from None
    return unwrap(content, f"{where}: {file.name}")


def unwrap(content: Any, where: str) -> dict[str, Tensor]:
    """Return the weights in the content of a file: the content itself, or the value under a name such as `state_dict`.

    Raises:
        UserError: If the content has no weights, or several sets to choose from.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where} contains {type(content).__name__}, not a dictionary of tensors; {SAVE}")
    if weights := _tensors(content):
        return weights
    found = {str(name): weights for name, value in content.items() if (weights := _tensors(value))}
    wrapped = next((name for name in WRAPPERS if name in found), None)
    if wrapped is None and len(found) == 1:
        (wrapped,) = found
    if wrapped is None:
        choice = ", ".join(found) or ", ".join(map(str, content))[:100] or "nothing"
        raise UserError(
            f"{where} contains {choice}, but no dictionary of tensors named `state_dict` or `model`; {SAVE}"
        )
    return found[wrapped]


def _tensors(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a flat dictionary of weights; nothing for any other value."""
    if not isinstance(value, Mapping) or any(isinstance(item, Mapping | list | tuple) for item in value.values()):
        return {}
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}


def without_prefixes(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights with the names as they are, then without each prefix of a wrapper that all names share."""
    current = dict(tensors)
    yield current
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in current)), None):
        current = {name.removeprefix(prefix): tensor for name, tensor in current.items()}
        yield current
