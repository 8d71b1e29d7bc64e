"""References of a comparison: an ONNX model, or anything else that answers feeds as one would."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from onnx import ModelProto

from bnfold.equivalence.numbers.element_types import Feed, Outputs
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.signature import Source

Truth = Callable[[Feed, Iterable[str]], Outputs]
"""A feed and the names of outputs -> these outputs in float64. Raises Unknowable."""


class Runner(Protocol):
    """Something loaded that answers feeds."""

    def run(self, feed: Feed) -> Outputs:
        """Outputs by name. Raises RunFailed."""


class Reference(Protocol):
    """The side that decides what is right."""

    @property
    def given(self) -> GivenModel | None:
        """The ONNX model, where it is one: only then values inside it can be looked at."""

    @property
    def source(self) -> Source | None:
        """The file or bytes that onnxruntime loads, where the reference is an ONNX model."""

    def structure(self) -> ModelProto:
        """A graph with the inputs and outputs that the reference has, from which sizes for feeds are read."""

    def running(self, setting: Setting, taps: Sequence[str] = ()) -> AbstractContextManager[Runner]:
        """Loaded while the block lasts; `taps` become outputs as well. Raises RunFailed, ProviderError."""

    def truth(self, shake: int | None = None) -> Truth:
        """The reference in float64; with `shake`, a seed, every stored number is off by one unit roundoff.

        Raises Unknowable where that cannot be known.
        """

    def shaken(self, seed: int) -> "AbstractContextManager[Reference | None]":
        """The reference with every stored float moved to a neighbour, while the block lasts; None where that cannot be.

        Raises BnfoldError or OSError where it cannot be made.
        """


class ModelReference(NamedTuple):
    """An ONNX model, run by onnxruntime."""

    given: GivenModel

    @property
    def source(self) -> Source:
        """The file, or the bytes of the model."""
        return self.given.source

    def structure(self) -> ModelProto:
        """The model without the bytes of its weights. Raises ModelError."""
        return self.given.structure

    def running(self, setting: Setting, taps: Sequence[str] = ()) -> AbstractContextManager[Runner]:
        """A session."""
        return running(self.source, setting, taps)

    def truth(self, shake: int | None = None) -> Truth:
        """Evaluated by onnx.reference with every stored number widened."""
        from bnfold.equivalence.numbers.float64 import Evaluator

        return Evaluator(self.given.file, shake)

    @contextmanager
    def shaken(self, seed: int) -> "Iterator[ModelReference]":
        """A copy in a folder that is gone when the block ends."""
        from bnfold.equivalence.runtime.shaken_model import shaken_model

        with shaken_model(self.given.file, seed) as path:
            yield ModelReference(GivenModel(path))
