"""One call gives back what it took: files, mappings, threads and cycles of references end when it returns or raises.

Python's collector would find them too, but only when so many new objects were made that it looks, and never where it is
switched off; until then each call would keep its descriptors and a megabyte.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar, cast
from weakref import ReferenceType, ref

if TYPE_CHECKING:
    from types import TracebackType


class Closable(Protocol):
    """Something that holds what is to be given back."""

    def close(self) -> None:
        """Give it back; called again, do nothing. Raises BufferError while somebody still looks at it."""


_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Closable)
_taken: ContextVar["list[ReferenceType[object]] | None"] = ContextVar("taken", default=None)
_memory_stays = False


def process_ends_with_the_call() -> None:
    """Say that this process ends with the call that is about to begin, and gives its memory back as a whole.

    To take a graph of 20,000 nodes to pieces takes longer than to write it.
    """
    global _memory_stays
    _memory_stays = True


def closed_at_the_end(thing: _C, *, memory_alone: bool = False) -> _C:
    """`thing`, closed when the innermost call of this thread that `gives_back` ends. Outside of one, its owner's.

    `memory_alone`: it holds nothing but memory.
    """
    return thing if memory_alone and _memory_stays else _noted(thing)


def emptied_at_the_end(thing: _T) -> _T:
    """`thing`, which refers to itself, without its attributes when the innermost call that `gives_back` ends."""
    return thing if _memory_stays else _noted(thing)


def _noted(thing: _T) -> _T:
    if (taken := _taken.get()) is not None:
        taken.append(ref(thing))  # weakly: what nobody needs any more goes before the end
    return thing


def gives_back(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, whose calls give back what they took."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with given_back():
            return function(*args, **kwargs)

    return call


@contextmanager
def given_back() -> Iterator[None]:
    """Close at the end of the block everything that it opened."""
    taken: list[ReferenceType[object]] = []
    token = _taken.set(taken)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        _taken.reset(token)
        if _close(taken) and error is not None:
            _forget_locals(error)
            _close(taken)
        del error  # it refers to this very frame


def _close(taken: list[ReferenceType[object]]) -> bool:
    """Close all that are left, the last first; whether somebody still looks at one of them."""
    looked_at = False
    for each in reversed(taken):
        thing = each()
        if hasattr(thing, "close"):
            try:
                cast("Closable", thing).close()
            except BufferError:
                looked_at = True
        elif thing is not None:
            vars(thing).clear()
    return looked_at


def _forget_locals(error: BaseException) -> None:
    """Have the frames of bnfold that an exception went through let go of what they looked at."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        current = chain.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        chain += [current.__cause__, current.__context__]
        trace: TracebackType | None = current.__traceback__
        while trace is not None:
            if str(trace.tb_frame.f_globals.get("__name__", "")).startswith("bnfold."):
                with suppress(RuntimeError):  # it still runs
                    trace.tb_frame.clear()
            trace = trace.tb_next
