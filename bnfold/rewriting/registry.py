"""Passes by name: those of bnfold, other optimizers, plugins of installed packages, and functions of scripts.

A plugin is an entry point of the group `bnfold.passes`: a pass, a class of passes, or a function that takes a model.
"""

import copy
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.batches import script_of
from bnfold.batches.sources import load_script
from bnfold.errors import BnfoldError, UsageError, nearest_name
from bnfold.options import is_from_python
from bnfold.passes import ORDER, Pass, PassOptions, Preserves, default_passes
from bnfold.pipeline import Rewrite
from bnfold.rewriting.arguments import described_options, keywords_for, options_holder, split_options, values_for
from bnfold.rewriting.function_pass import FunctionPass
from bnfold.rewriting.optimizers import OPTIMIZERS, distribution_of, missing

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "bnfold.passes"
DEFAULT = "default"

AnyPass = Pass | Rewrite
Asked = Callable[[PassOptions], list[AnyPass]]
"""One element of what was asked for: it makes its passes, from the options of all."""


@dataclass(frozen=True)
class Listed:
    """One line of `bnfold passes`. `preserves` is "" where the pass cannot be loaded: then `problem` says why."""

    name: str
    preserves: str
    options: tuple[tuple[str, str], ...]
    source: str
    summary: str = ""
    problem: str = ""


def asked_passes(asked: Sequence[Any]) -> list[Asked]:
    """The makers of the passes that were asked for: names, pass objects and functions.

    Scripts and plugins are loaded here, once. Raises UsageError for a name that nothing has, for options that a pass
    does not have, and for what is no pass.
    """
    return [_by_text(each) if isinstance(each, str | os.PathLike) else _fixed(_as_pass(each)) for each in asked]


def _by_text(text: str | os.PathLike[str]) -> Asked:
    name, given = _split(os.fspath(text))
    if name == DEFAULT:
        if given:
            raise UsageError(f"--pass {name}: the built-in order takes the options of the command, none of its own")
        return lambda options: list(default_passes(options))
    own = {kind.name: make for kind, make in ORDER.items()}
    if name in own:
        return _built_in(name, own[name], given)
    script = script_of(name)
    if script is not None:
        return _fixed(_of_script(*script, given))
    if name in OPTIMIZERS:
        return _fixed(_configured(OPTIMIZERS[name], name, given))
    for point in _plugins():
        if point.name == name:
            return _fixed(_configured(_loaded(point), name, given))
    if is_from_python(name):
        raise UsageError(f"the pass {name} came from Python: name it as script.py:function to run it elsewhere")
    known = [DEFAULT, *own, *OPTIMIZERS, *(point.name for point in _plugins())]
    near = nearest_name(name, known)
    hint = f"did you mean {near}?" if near else "`bnfold passes` lists those there are, script.py:function is one too"
    raise UsageError(f"there is no pass {name!r}; {hint}")


def _split(text: str) -> tuple[str, dict[str, str]]:
    """A name, or ``script.py:function``, and the options behind it."""
    script, dot_py, rest = text.partition(".py:")
    if dot_py:
        function, _, options = rest.partition(":")
        name = f"{script}{dot_py}{function}"
    else:
        name, _, options = text.partition(":")
    return name, split_options(options, f"--pass {name}")


def _fixed(made: AnyPass) -> Asked:
    return lambda _: [made]


def _built_in(name: str, maker: Callable[[PassOptions], Pass | None], given: Mapping[str, str]) -> Asked:
    def make(options: PassOptions) -> list[AnyPass]:
        made = maker(options)
        if made is None:
            raise UsageError(f"--pass {name}: the other options leave nothing for it to do; see bnfold optimize --help")
        if given:
            made = copy.copy(made)
            configured: Any = made
            configured.options = replace(configured.options, **values_for(made, given, f"--pass {name}"))
        return [made]

    return make


def _of_script(script: Path, name: str, given: Mapping[str, str]) -> AnyPass:
    found = load_script(script, name)
    if found is None:
        raise UsageError(f"{script}: has no pass and no function {name!r}")
    made = _configured(found, name, given)
    return replace(made, script=script) if isinstance(made, FunctionPass) else made


def _plugins() -> "list[EntryPoint]":
    from importlib.metadata import entry_points

    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _loaded(point: "EntryPoint") -> Any:
    try:
        return point.load()
    except BnfoldError:
        raise
    except Exception as error:
        where = "" if point.dist is None else f" of {point.dist.name}"
        raise UsageError(f"the pass {point.name!r}{where} cannot be loaded: {type(error).__name__}: {error}") from error


def _configured(found: Any, name: str, given: Mapping[str, str]) -> AnyPass:
    """The pass found under a name, with the options that were given behind it."""
    what = f"--pass {name}"
    if isinstance(found, type) and _is_pass(found):
        values = values_for(found, given, what)
        return _as_pass(_instance(found, values, what))
    if _is_pass(found):
        if given:
            raise UsageError(f"{what} is made already; options are for classes of passes and for functions")
        return _as_pass(found)
    if callable(found) and not isinstance(found, type):
        return _as_function(found, name, keywords_for(found, given, what))
    raise UsageError(f"{what} is {type(found).__name__}, neither a pass nor a function that takes a model")


def _instance(kind: type[Any], values: Mapping[str, Any], what: str) -> Any:
    holder = options_holder(kind)
    try:
        if holder is None or holder is kind:
            return kind(**values)
        return kind(holder(**values))
    except TypeError as error:
        raise UsageError(f"{what} cannot be made: {error}") from error


def _is_pass(found: Any) -> bool:
    return hasattr(found, "name") and (hasattr(found, "run") or hasattr(found, "rewrite"))


def _as_pass(each: Any) -> AnyPass:
    """A pass object as it is; a function, or a class of passes, as the pass that it is. Raises UsageError."""
    if isinstance(each, type):
        return _configured(each, each.__name__, {})
    if _is_pass(each):
        if not isinstance(each.name, str) or not each.name:
            raise UsageError(f"the name of a pass is a text, not {each.name!r}")
        words = [word.value for word in Preserves]
        if getattr(each, "preserves", None) not in words:
            raise UsageError(f"pass {each.name}: preserves is one of {', '.join(words)}")
        made: AnyPass = each
        return made
    if callable(each):
        return _as_function(each, name_of(each), {})
    raise UsageError(f"passes are names, pass objects and functions, not {type(each).__name__}")


def _as_function(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> FunctionPass:
    return FunctionPass(function, name, options=options)


def name_of(function: Any) -> str:
    """The name of a function: its own, that of the function it wraps, or of its class."""
    own = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return str(own or type(function).__name__)


def listed() -> Iterator[Listed]:
    """Every pass that has a name: those of bnfold in their order, other optimizers, and plugins."""
    for kind in ORDER:
        yield Listed(kind.name, str(kind.preserves), tuple(described_options(kind)), "bnfold", _summary(kind))
    for name, optimizer in OPTIMIZERS.items():
        problem = missing(optimizer)
        options, summary = tuple(described_options(optimizer)), _summary(optimizer)
        yield Listed(name, str(optimizer.preserves), options, distribution_of(optimizer), summary, problem)
    for point in _plugins():
        source = "an installed package" if point.dist is None else point.dist.name
        try:
            found = _loaded(point)
            made = _configured(found, point.name, {})
        except UsageError as error:
            yield Listed(point.name, "", (), source, problem=str(error))
            continue
        yield Listed(point.name, str(made.preserves), tuple(described_options(found)), source, _summary(found))


def _summary(found: Any) -> str:
    text = inspect.getdoc(found) or ""
    return text.partition("\n")[0]
