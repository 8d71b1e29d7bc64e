"""The options of a pass as text, ``name=value,name=value``, and as the fields of a dataclass."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bnfold.errors import UsageError, nearest_name

_WORDS = {"true": True, "false": False, "yes": True, "no": False}
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (lambda text: _WORDS[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "a text"),
    tuple[str, ...]: (lambda text: tuple(filter(None, text.split("+"))), "texts with + between them"),
}
"""The reader of a text for each type of field, and a description of such a text."""


def split_options(text: str, what: str) -> dict[str, str]:
    """``a=1,b=x`` by name. Raises UsageError, which names `what` has the options."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{what}: options are written name=value, with commas between them, not {part!r}")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def options_of(made: Any) -> dict[str, dataclasses.Field[Any]]:
    """The options of a pass, or of a class of passes, that a text can give: the fields of its dataclass of options.

    That is the pass itself where it is a dataclass, else what the parameter `options` of its constructor is.
    """
    holder = options_holder(made if isinstance(made, type) else type(made))
    if holder is None:
        return {}
    return {each.name: each for each in dataclasses.fields(holder) if each.init and _kind(holder, each) is not None}


def options_holder(kind: type[Any]) -> type[Any] | None:
    """The dataclass whose fields are the options of a class of passes; None where it has none."""
    if dataclasses.is_dataclass(kind):
        return kind
    try:
        hints = typing.get_type_hints(kind.__init__)
    except Exception:  # noqa: BLE001 - names that only the type checker knows
        return None
    hint = hints.get("options")
    for each in typing.get_args(hint) or (hint,):
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            return each
    return None


def _kind(holder: type[Any], field: dataclasses.Field[Any]) -> Any:
    """The type of a field where a text can spell it, None where not; of one that may be None, the other type."""
    hint: Any = typing.get_type_hints(holder).get(field.name)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        alternatives = [each for each in typing.get_args(hint) if each is not types.NoneType]
        hint = alternatives[0] if len(alternatives) == 1 else None
    return hint if hint in _READERS else None


def values_for(made: Any, given: Mapping[str, str], what: str) -> dict[str, Any]:
    """The values of options that were given as text. Raises UsageError for an unknown one, and for a wrong value."""
    known = options_of(made)
    holder = options_holder(made if isinstance(made, type) else type(made))
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known or holder is None:
            near = nearest_name(name, known)
            hint = f"; did you mean {near}?" if near else f"; it has {', '.join(known) or 'none'}"
            raise UsageError(f"{what} has no option {name!r}{hint}")
        values[name] = _value(_kind(holder, known[name]), text, f"{what}: {name}")
    return values


def _value(kind: Any, text: str, what: str) -> Any:
    read, wanted = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise UsageError(f"{what} is {wanted}, not {text!r}") from None


def keywords_for(function: Any, given: Mapping[str, str], what: str) -> dict[str, Any]:
    """The values for a function, whose options are its further parameters, each read as the type of its default."""
    if not given:
        return {}
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])
    parameters.pop("base_dir", None)
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in parameters:
            raise UsageError(f"{what} has no option {name!r}; it has {', '.join(parameters) or 'none'}")
        default = parameters[name].default
        kind = type(default) if isinstance(default, bool | int | float) else str
        values[name] = _value(kind, text, f"{what}: {name}")
    return values


def described_options(made: Any) -> Iterator[tuple[str, str]]:
    """Each option of a pass with its default, as people are told."""
    for name, field in options_of(made).items():
        default = field.default
        if default is dataclasses.MISSING:
            default = "" if field.default_factory is dataclasses.MISSING else field.default_factory()
        word = str(default).lower() if isinstance(default, bool) else "none" if default in ((), None) else str(default)
        yield name, word
