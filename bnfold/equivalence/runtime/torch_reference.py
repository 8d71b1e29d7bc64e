"""A PyTorch module as the reference: evaluated in eval mode on the feeds of the ONNX model that was exported from it.

The only place that touches torch, and only where the caller has imported it to make the module.
"""

import copy
import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto

from bnfold.equivalence.numbers.element_types import Array, Feed, Outputs, numpy_type, rounding_of
from bnfold.equivalence.numbers.float64 import Unknowable, widened
from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.references import Truth
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.runtime.shaken_model import shaken_array
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.signature import Source, signature_of

if TYPE_CHECKING:
    from torch.nn import Module

_BFLOAT16 = numpy_type(TensorProto.BFLOAT16)


def is_module(value: Any) -> bool:
    """Whether `value` is a torch.nn.Module; torch is not imported to find out, since whoever has one has torch."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "nn") and isinstance(value, torch.nn.Module)


@dataclass(frozen=True)
class ModuleReference:
    """`module` as the model at `candidate` names its inputs and outputs.

    Inputs go by name where the module's `forward` has parameters of all these names, otherwise in the order of the
    graph. Outputs (a tensor, or tuples, lists and mappings of them) are taken in order, those of a mapping by name
    where it has all the graph's names; None is left out, as exporters do.
    """

    module: "Module"
    candidate: ModelProto

    @classmethod
    def of(cls, module: "Module", candidate: GivenModel | Source) -> "ModuleReference":
        """Raises ModelError where `candidate` is no model."""
        return cls(module, GivenModel.of(candidate).structure)

    @property
    def given(self) -> None:
        """There is no ONNX model."""

    @property
    def source(self) -> None:
        """Nor a file of one."""

    def structure(self) -> ModelProto:
        """The candidate's: a module does not say what it takes."""
        return self.candidate

    @contextmanager
    def running(self, setting: Setting, taps: Sequence[str] = ()) -> "Iterator[_Evaluated]":  # noqa: ARG002 - onnxruntime's
        """The module in eval mode without gradients; afterwards every part of it has the mode that it had."""
        with evaluating(self.module):
            yield _Evaluated(self.module, self.candidate)

    def training_parts(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """The functions and parts that normalize with the batch, or drop, although the module is in eval mode.

        `shapes`: of a feed that the module takes. Empty where it takes no feed of ones of these shapes.
        """
        from torch.overrides import TorchFunctionMode

        found: dict[str, None] = {}
        inside: list[str] = [""]

        class Listening(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                kwargs = kwargs or {}
                name = getattr(func, "__name__", "")
                if kwargs.get("training") is True and ("dropout" in name or "norm" in name):
                    found[f"{name} in {inside[-1]!r}" if inside[-1] else name] = None
                return func(*args, **kwargs)

        hooks = []
        for name, part in self.module.named_modules():
            hooks.append(part.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
            hooks.append(part.register_forward_hook(lambda *_: inside.pop() and None, always_call=True))
        try:
            with self.running(Setting()) as evaluated, Listening():
                evaluated.run(_ones(self.candidate, shapes))
        except RunFailed:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return list(found)

    def truth(self, shake: int | None = None) -> Truth:
        """A copy of the module with parameters and inputs in float64. Raises Unknowable where it cannot be copied."""
        try:
            wide = copy.deepcopy(self.module).double()
        except Exception as error:  # a module may refuse to be copied in any way it likes
            raise Unknowable(f"the module cannot be copied into float64: {_one_line(error)}") from error
        if shake is not None:
            _shake(self.module, wide, shake)
        evaluated = _Evaluated(wide, self.candidate)

        def evaluate(feed: Feed, names: Iterable[str]) -> Outputs:
            try:
                with evaluating(wide):
                    outputs = evaluated.run({name: widened(array) for name, array in feed.items()})
            except RunFailed as failure:
                raise Unknowable(f"the module does not run in float64: {failure}") from failure
            narrow = [name for name, array in outputs.items() if rounding_of(array.dtype) and array.dtype != np.float64]
            if narrow:
                raise Unknowable(
                    f"the module makes {narrow[0]!r} in {outputs[narrow[0]].dtype.name} whatever it is fed"
                )
            return {name: outputs[name] for name in names if name in outputs}

        return evaluate

    @contextmanager
    def shaken(self, seed: int) -> "Iterator[ModuleReference | None]":
        """A copy in the module's own types: one with float16 inside has no truth. None where it cannot be copied."""
        try:
            moved = copy.deepcopy(self.module)
        except Exception:  # noqa: BLE001 - a module may refuse to be copied in any way it likes
            yield None
            return
        _move_to_neighbours(moved, seed)
        yield replace(self, module=moved)


def _ones(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> Feed:
    ports = {port.name: port for port in signature_of(model).inputs}
    return {name: np.ones(tuple(shape), numpy_type(ports[name].elem_type)) for name, shape in shapes.items()}


def _shake(module: "Module", wide: "Module", seed: int) -> None:
    """Move every float parameter of `wide` by one unit roundoff of the type it has in `module`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for stored, value in zip(module.parameters(), wide.parameters(), strict=True):
            if not stored.is_floating_point():
                continue
            signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
            value.mul_(1 + signs * (torch.finfo(stored.dtype).eps / 2))


def _move_to_neighbours(module: "Module", seed: int) -> None:
    """Move every float that `module` stores to the next one of its type, up or down by `seed`."""
    import torch

    generator = np.random.default_rng([seed, 0x5AFE])
    with torch.no_grad():
        for stored in (*module.parameters(), *module.buffers()):
            if not stored.is_floating_point():
                continue
            (array,) = _flat(stored)
            value = _tensor(shaken_array(array, generator))
            stored.copy_(value)


@contextmanager
def evaluating(module: "Module") -> Iterator[None]:
    """The module in evaluation mode, without gradients; afterwards every part of it has the mode that it had."""
    import torch

    modes = [(part, part.training) for part in module.modules()]
    try:
        with suppress(NotImplementedError):  # an exported program has its mode built in and refuses to be asked
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


class _Evaluated:
    """A module that answers feeds under the names of a graph."""

    def __init__(self, module: "Module", model: ModelProto) -> None:
        self._module = module
        signature = signature_of(model)
        self._inputs = [port.name for port in signature.inputs]
        self._outputs = [port.name for port in signature.outputs]
        self._by_name = _keywords(module).issuperset(self._inputs)
        first = next(itertools.chain(module.parameters(), module.buffers()), None)
        self._device = None if first is None else first.device

    def run(self, feed: Feed) -> Outputs:
        """Outputs under the names of the graph's; one that the graph does not have is named by its position."""
        strange = [name for name in feed if name not in self._inputs]
        if strange:
            raise RunFailed(f"a PyTorch module takes no {strange[0]!r}, which overrides an initializer of the graph")
        values = {name: self._tensor(name, feed[name]) for name in self._inputs}
        try:
            result = self._module(**values) if self._by_name else self._module(*values.values())
        except Exception as error:  # whatever the module raises, it does not answer this feed
            raise RunFailed(_one_line(error)) from error
        if isinstance(result, Mapping) and set(self._outputs) <= set(result):
            result = [result[name] for name in self._outputs]
        arrays = list(_flat(result))
        extra = [f"output {number} of the module" for number in range(len(self._outputs), len(arrays))]
        return dict(zip((*self._outputs, *extra), arrays, strict=False))

    def _tensor(self, name: str, array: Array) -> Any:
        if array.dtype.kind in "OSU":
            raise RunFailed(f"input {name!r} is text, which PyTorch has no tensors of")
        try:
            return _tensor(array).to(self._device)
        except TypeError as error:
            raise RunFailed(f"input {name!r} is {array.dtype.name}, which PyTorch does not take from numpy") from error


def _keywords(module: "Module") -> set[str]:
    """The names that `forward` takes arguments by; none where it does not tell, as in TorchScript."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except ValueError:
        return set()
    return {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


def _tensor(array: Array) -> Any:
    """A tensor with a copy of `array`. Raises TypeError for a type that PyTorch does not take from numpy."""
    import torch

    copied = np.array(array, order="C")
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copied)


def _flat(result: Any) -> Iterator[Array]:
    import torch

    if isinstance(result, torch.Tensor):
        tensor = result.detach().cpu().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            yield tensor.contiguous().view(torch.int16).numpy().view(_BFLOAT16)
        else:
            yield tensor.numpy()
    elif isinstance(result, Mapping):
        for item in result.values():
            yield from _flat(item)
    elif isinstance(result, tuple | list):
        for item in result:
            yield from _flat(item)
    elif isinstance(result, bool | int):
        yield np.asarray(result)
    elif isinstance(result, float):
        yield np.asarray(result, np.float32)
    elif result is not None:
        raise RunFailed(f"the module gives out a {type(result).__name__}, which is no tensor")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
