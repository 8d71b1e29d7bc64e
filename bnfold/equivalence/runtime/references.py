"""What a candidate is compared with: an ONNX model, or anything else that answers feeds as one would."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from onnx import ModelProto

from bnfold.equivalence.numbers.element_types import Feed, Outputs
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.structure.signature import Source, read_structure

Truth = Callable[[Feed, Iterable[str]], Outputs]
"""A feed and the names of outputs -> these outputs in float64. Raises Unknowable."""


class Runner(Protocol):
    """Something loaded that answers feeds."""

    def run(self, feed: Feed) -> Outputs:
        """Outputs by name. Raises RunFailed."""


class Reference(Protocol):
    """The side that decides what is right."""

    @property
    def source(self) -> Source | None:
        """The ONNX model, where it is one: only then values inside it can be looked at."""

    def structure(self) -> ModelProto:
        """A graph with the inputs and outputs that the reference has, from which sizes for feeds are read."""

    def running(self, setting: Setting, taps: Sequence[str] = ()) -> AbstractContextManager[Runner]:
        """Loaded while the block lasts; `taps` become outputs as well. Raises RunFailed, ProviderError."""

    def truth(self, shake: int | None = None) -> Truth:
        """What the reference is in float64; with `shake`, a seed, with every stored number off by one unit roundoff.

        Raises Unknowable where that cannot be known.
        """

    def shaken(self, seed: int) -> "AbstractContextManager[Reference | None]":
        """The same with every stored float moved to a neighbour, while the block lasts; None where that cannot be.

        Raises BnfoldError or OSError where it cannot be made.
        """


@dataclass(frozen=True)
class ModelReference:
    """An ONNX model, run by onnxruntime."""

    source: Source

    def structure(self) -> ModelProto:
        """The model without the bytes of its weights. Raises ModelError."""
        return read_structure(self.source)

    def running(self, setting: Setting, taps: Sequence[str] = ()) -> AbstractContextManager[Runner]:
        """A session."""
        return running(self.source, setting, taps)

    def truth(self, shake: int | None = None) -> Truth:
        """Evaluated by onnx.reference with every stored number widened."""
        from bnfold.equivalence.numbers.float64 import Evaluator

        return Evaluator(self.source, shake)

    @contextmanager
    def shaken(self, seed: int) -> "Iterator[ModelReference]":
        """A copy in a folder that is gone when the block ends."""
        from bnfold.equivalence.runtime.shaken_model import shaken_model

        with shaken_model(self.source, seed) as path:
            yield ModelReference(path)
