"""An option is a field of a frozen dataclass, from which everything else about it is derived.

One line in a class of options adds the keyword argument of the library, its default and its check, the flag of the
command line with its help, the key of the report's `options`, and the spelling in the command that makes a run again.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Self, dataclass_transform

from bnfold.errors import UsageError, nearest_name
from bnfold.options.kinds import DataSet, Folder, Group, Kind, Passes, Path
from bnfold.records import Record

_OPTION = "bnfold.option"

SECTIONS = ("Rewriting", "Verification", "Data", "Output", "Reports and messages", "Process")
"""The sections of a command's help, in order."""


class Option(NamedTuple):
    """One option, as `option` declares it. `flag` is "" where the command line has none; help lists it in `section`."""

    name: str
    kind: Kind
    default: Any
    help: str
    flag: str
    metavar: str
    remote: bool
    reported: bool
    section: str

    @property
    def is_read(self) -> bool:
        """Whether its value may name a file that is read."""
        return isinstance(self.kind, DataSet | Path | Passes) and not isinstance(self.kind, Folder)


def option(
    kind: Kind,
    default: Any,
    help: str = "",  # noqa: A002 - click's word for it
    *,
    flag: str | None = None,
    metavar: str = "",
    remote: bool = True,
    reported: bool = True,
    section: str = "",
) -> Any:
    """Declare a field of `Options`.

    `flag` is derived from the field's name, with "no" before that of one that is on by default; "" is none. Without
    `help` the command line does not have the option at all. `remote`: whether it may come from another machine, which
    the path of a file, code to run or room to take here may not. `reported`: whether it is part of what was asked for.
    `section`: one of `SECTIONS`, that of the class if left out.
    """
    metadata = {_OPTION: {"kind": kind, "help": help, "flag": flag, "metavar": metavar, "remote": remote,
                          "reported": reported, "section": section}}  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


_KNOWN: dict[type, tuple[Option, ...]] = {}


def options_of(options: "type[Options]") -> tuple[Option, ...]:
    """The options of a class, what it declares itself before what it inherits."""
    if options not in _KNOWN:
        _KNOWN[options] = tuple(_declared(options))
    return _KNOWN[options]


def _declared(options: "type[Options]") -> Iterator[Option]:
    lineage = [vars(each).get("__annotations__", {}) for each in options.__mro__]
    floors = {
        each.name: next(n for n, own in enumerate(lineage) if each.name in own) for each in dataclasses.fields(options)
    }
    for each in sorted(dataclasses.fields(options), key=lambda field: floors[field.name]):
        declared = dict(each.metadata[_OPTION])
        declared["section"] = declared["section"] or getattr(options.__mro__[floors[each.name]], "SECTION", SECTIONS[0])
        word = each.name.replace("_", "-")
        if declared["flag"] is None:
            declared["flag"] = f"--no-{word}" if each.default is True else f"--{word}"
        if not declared["help"]:
            declared["flag"] = ""
        yield Option(name=each.name, default=each.default, **declared)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options(Record):
    """The base of every class of options: checks each value when it is made, and knows the plain form of all.

    It takes keywords alone.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__(kw_only=True)

    def __init__(self, **values: Any) -> None:
        """Keep every value in the form that its kind gives it. Raises UsageError."""
        for each in options_of(type(self)):
            self.__dict__[each.name] = each.kind.checked(each.name, values.pop(each.name, each.default))
        for name in values:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON: each that is reported, data of Python as true."""
        return {
            each.name: each.kind.plain(getattr(self, each.name)) for each in options_of(type(self)) if each.reported
        }

    def changed(self) -> dict[str, Any]:
        """The part of `to_dict` that is not at its default: the same request is always the same."""
        defaults = type(self)().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, remote: bool = False) -> Self:
        """The inverse of `to_dict`, for values that may come from anywhere. Options that are left out have defaults.

        With `remote` what must not come from another machine is refused. Raises UsageError, which names the option.
        """
        known = {each.name: each for each in options_of(cls) if each.reported}
        for name, value in values.items():
            if name not in known:
                near = nearest_name(str(name), known)
                raise UsageError(f"there is no option {name!r}" + (f"; did you mean {near}?" if near else ""))
            if remote and not known[name].remote and value not in (None, False, known[name].default):
                raise UsageError(
                    f"{name} is about files, code or room of the machine that does the work; it cannot be asked for"
                )
        plain = {name: None if isinstance(known[name].kind, DataSet) and value is False else value
                 for name, value in values.items()}  # fmt: skip
        return cls(**plain)

    @classmethod
    def words(cls, values: Mapping[str, Any]) -> Iterator[str]:
        """The arguments of the command line that ask for these plain values; none for what is at its default.

        What this class does not know, as an option of a later version, is spelled like the others.
        """
        known = {each.name: each for each in options_of(cls)}
        for name, plain in values.items():
            if name not in known:
                yield from _unknown(f"--{name.replace('_', '-')}", plain)
            elif plain is not None and plain != known[name].kind.plain(
                known[name].kind.checked(name, known[name].default)
            ):
                yield from known[name].kind.words(known[name].flag, plain)

    def shared_with(self, other: type[Any], *, without: Collection[str] = ()) -> dict[str, Any]:
        """The values of the fields that the dataclass `other` has as well, by name."""
        names = {each.name for each in dataclasses.fields(self)} & {each.name for each in dataclasses.fields(other)}
        return {name: getattr(self, name) for name in names.difference(without)}

    def paths_read(self) -> Iterator[tuple[Option, str]]:
        """The options that name a file or folder, or a function of a script, and those names."""
        for each in options_of(type(self)):
            value = getattr(self, each.name)
            plain = each.kind.plain(value) if each.is_read else None
            if isinstance(plain, str):
                yield each, plain
            elif isinstance(each.kind, Passes):
                yield from ((each, script) for script in each.kind.scripts(value))
            elif isinstance(each.kind, Group) and value is not None:
                yield from value.paths_read()


def _unknown(flag: str, plain: Any) -> Iterator[str]:
    match plain:
        case None | False:
            return
        case True:
            yield flag
        case Mapping():
            for name, each in plain.items():
                yield from (flag, f"{name}:{each}" if name else str(each))
        case list() | tuple():
            for each in plain:
                yield from (flag, str(each))
        case _:
            yield from (flag, str(plain))


def keywords(options: Callable[..., Any], function: Callable[..., Any], **defaults: Any) -> Callable[..., Any]:
    """`function`, whose last parameter takes `options`, as a function that takes their fields as keyword arguments.

    Its signature holds them one by one, for `help` and for editors. `defaults` are those of its other parameters.
    """
    signature = inspect.signature(function)
    *names, _ = signature.parameters
    own = [signature.parameters[name].replace(default=defaults.get(name, inspect.Parameter.empty)) for name in names]
    taken = signature.replace(parameters=[*own, *inspect.signature(options).parameters.values()])

    def call(*args: Any, **named: Any) -> Any:
        arguments = taken.bind(*args, **named).arguments
        first = [arguments.pop(name, defaults.get(name)) for name in names]
        return function(*first, options(**arguments))

    call.__name__, call.__qualname__, call.__module__ = function.__name__, function.__qualname__, function.__module__
    call.__doc__ = function.__doc__
    call.__signature__ = taken  # type: ignore[attr-defined]  # what inspect.signature reads
    return call
