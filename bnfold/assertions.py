"""`assert_equivalent`: verification in one line of a test or a deployment pipeline, and a message worth reading."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bnfold.errors import restored

if TYPE_CHECKING:
    from bnfold.equivalence import Judgement, Measurement, Verification

_SHOWN = 5
_PACKAGES = ("bnfold", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "torch")


class NotEquivalentError(AssertionError):
    """The candidate is not equivalent to the reference, or was not compared. `verification` holds every measurement."""

    def __init__(self, message: str, verification: "Verification") -> None:
        super().__init__(message)
        self.verification = verification

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as every error of bnfold does."""
        return restored, (type(self), self.args, self.__dict__)


def assert_equivalent(reference: Any, candidate: Any, **options: Any) -> "Verification":
    """Return the verification of `candidate` against `reference` if the two are equivalent, or proved to be.

    Takes what `bnfold.verify` does, and raises what it does. Raises NotEquivalentError, an AssertionError, where they
    are not equivalent or could not be compared: what was neither compared nor proved is never called equivalent.
    """
    __tracebackhide__ = True
    from bnfold import api
    from bnfold.report import GOOD

    found = api.verify(reference, candidate, **options)
    if found.verdict not in GOOD:
        raise NotEquivalentError("\n".join(_message(found, reference, candidate, options)), found)
    return found


def _message(found: "Verification", reference: Any, candidate: Any, options: Mapping[str, Any]) -> Iterator[str]:
    relation = "is not equivalent to" if found.verdict == "not-equivalent" else "was not verified against"
    yield f"{_named(candidate, 'the candidate')} {relation} {_named(reference, 'the reference')} [{found.verdict}]"
    yield found.explanation
    pairs = zip(found.measurements, found.judgements, strict=True)
    failed = [pair for pair in pairs if not pair[1].agrees and pair[0].where.precision == "strict"]
    failed.sort(key=lambda pair: (bool(pair[0].problem), pair[0].new_nonfinite, pair[0].relative), reverse=True)
    if failed:
        yield ""
        yield f"{len(failed)} of {len(found.measurements)} comparisons differ" + (
            f", the worst {_SHOWN}:" if len(failed) > _SHOWN else ":"
        )
        yield from (f"  {_line(*pair)}" for pair in failed[:_SHOWN])
    if found.layers is not None:
        yield found.layers.sentence
    yield from (f"note: {note}" for note in found.notes)
    yield ""
    yield f"To reproduce: {_call(reference, candidate, {'seed': found.seed, **options})}"
    worst = found.largest.where.feed if found.largest else ""
    for feed in found.feeds:
        if feed["name"] == worst:
            shapes = ", ".join(f"{name} {list(shape)}" for name, shape in feed["shapes"].items())
            yield f"  where feed {worst} gives {shapes}" + (
                f" divided by {feed['damping']:g}" if feed["damping"] != 1 else ""
            )
    yield f"Environment: {', '.join(_environment())}"


def _line(measured: "Measurement", judged: "Judgement") -> str:
    where = measured.where
    name = where.output if where.stage == "output" else f"{where.output} (behind an output)"
    place = f"{name}, feed {where.feed}, {where.provider}, optimization {where.optimization}: "
    if measured.problem:
        return f"{place}{measured.problem} [{judged.rule}]"
    if measured.new_nonfinite or not judged.limit:
        count = measured.new_nonfinite or measured.different
        what = "NaN or infinite" if measured.new_nonfinite else "different"
        return f"{place}{count} of {measured.count} values {what} [{judged.rule}]"
    return (
        f"{place}{measured.max_abs:.3g} at {list(measured.worst_at)}, reference {measured.worst_reference:.6g}, "
        f"candidate {measured.worst_candidate:.6g}, at most {judged.limit:.3g} allowed [{judged.rule}]"
    )


def _named(model: Any, otherwise: str) -> str:
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return f"{otherwise} ({type(model).__name__})"


def _call(reference: Any, candidate: Any, options: Mapping[str, Any]) -> str:
    """The call as a person would write it; models and arrays that have no short notation are named."""
    arguments = [
        repr(os.fspath(side)) if isinstance(side, str | os.PathLike) else word
        for side, word in ((reference, "reference"), (candidate, "candidate"))
    ]
    short = (int, float, str, dict, tuple, list)
    arguments += [
        f"{name}={value!r}" for name, value in options.items() if isinstance(value, short) and name != "inputs"
    ]
    if "inputs" in options:
        inputs = options["inputs"]
        arguments.append(f"inputs={os.fspath(inputs)!r}" if isinstance(inputs, str | os.PathLike) else "inputs=...")
    return f"bnfold.verify({', '.join(arguments)})"


@cache
def _version(package: str) -> str:
    """The version of an installed package, or ""; cached, since each look-up leaves a cycle of objects behind."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _environment() -> Iterator[str]:
    for package in _PACKAGES:
        if package == "torch" and "torch" not in sys.modules:
            continue
        if found := _version(package):
            yield f"{package} {found}"
    yield f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
