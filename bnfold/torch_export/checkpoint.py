"""Weights from a file into a module: safetensors, or what torch.save wrote of a state_dict. Nothing in it is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError

_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net")
_WRAPPERS = ("module.", "_orig_mod.")


def load_checkpoint(module: Any, path: Path) -> None:
    """Load every parameter and buffer of `module` from the file. Raises UsageError where they are not all there.

    A state_dict may lie under the names that training loops use; the prefixes of DistributedDataParallel and
    torch.compile are taken off.
    """
    weights = _named(_read(path), path)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise UsageError(f"{path}: does not fit the module: {' '.join(lines)[:400]}") from error


def _read(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise UsageError(f"{path}: is no file")
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ModuleNotFoundError as error:
            raise UsageError("reading .safetensors needs a package: pip install safetensors") from error
        try:
            return load_file(path)
        except Exception as error:  # its own class, which is not exported everywhere
            raise UsageError(f"{path}: cannot be read as safetensors: {error}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, of zipfile, of torch
        raise UsageError(
            f"{path}: holds more than weights, or is damaged; save module.state_dict(), best as safetensors"
        ) from error


def _named(found: Any, path: Path) -> dict[str, Any]:
    """The tensors by the names that a module has for them."""
    import torch

    inside = next((name for name in _INSIDE if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)), "")
    weights = found[inside] if inside else found
    if not isinstance(weights, Mapping) or not weights:
        raise UsageError(f"{path}: holds no state_dict")
    if not all(isinstance(each, torch.Tensor) for each in weights.values()):
        raise UsageError(f"{path}: holds no state_dict: not all of its values are tensors")
    named = dict(weights)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named
