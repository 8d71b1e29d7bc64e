"""The kinds of values that options have: how each is checked, written as JSON, and spelled on the command line."""

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from operator import index
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.records import Record

if TYPE_CHECKING:
    from bnfold.onnxfile import Layout
    from bnfold.options.fields import Options


class Kind:
    """One kind of value.

    `checked` gives the value that an option holds, from what a caller of the library passes or from plain JSON, and
    raises UsageError. `plain` gives that value as plain JSON. `words` spells the plain form as arguments of the command
    line, after the `flag`; options at their default are never spelled.
    """

    def checked(self, name: str, value: Any) -> Any:
        """The value that the option `name` holds. Raises UsageError."""
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """The value as plain JSON."""
        return value

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The arguments that give a command this value."""
        yield from (flag, str(plain))


def _wrong(name: str, what: str, value: Any) -> UsageError:
    shown = repr(value)
    return UsageError(f"{name} is {what}, not {shown if len(shown) < 60 else type(value).__name__}")


class Flag(Kind):
    """True or false."""

    def checked(self, name: str, value: Any) -> bool:
        """A bool; other values count as wrong, whatever their truth value."""
        if not isinstance(value, bool):
            raise _wrong(name, "true or false", value)
        return value

    def words(self, flag: str, plain: Any) -> Iterator[str]:  # noqa: ARG002 - a flag that is spelled is not at its default
        """The flag alone."""
        yield flag


class Whole(Kind, Record):
    """A whole number from `least` up."""

    least: int = 0

    def checked(self, name: str, value: Any) -> int:
        """Every integer type of Python and numpy."""
        try:
            number = index(value)
        except TypeError:
            number = self.least - 1
        if isinstance(value, bool) or number < self.least:
            raise _wrong(name, f"a whole number from {self.least} up", value)
        return number


class Size(Whole):
    """A number of bytes, which the command line also takes with a unit."""


class Word(Kind, Record):
    """One of a few words. `switches`: flags of the command line that each stand for one of them."""

    choices: tuple[str, ...]
    switches: tuple[tuple[str, str], ...] = ()

    def checked(self, name: str, value: Any) -> str:
        """The word itself."""
        if not isinstance(value, str) or value not in self.choices:
            raise _wrong(name, f"one of {', '.join(self.choices)}", value)
        return str(value)

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The flag and the word; where the command line has switches instead, that of the word, if it has one."""
        if self.switches:
            yield from (switch for switch, word in self.switches if word == plain)
        else:
            yield from (flag, str(plain))


class Text(Kind):
    """A text, or None."""

    def checked(self, name: str, value: Any) -> str | None:
        """The text."""
        if value is not None and not isinstance(value, str):
            raise _wrong(name, "a text", value)
        return value


class Sha256(Text):
    """A SHA-256 in 64 lower-case hexadecimal digits, or None."""

    def checked(self, name: str, value: Any) -> str | None:
        """The digits."""
        if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
            raise _wrong(name, "a SHA-256 in 64 lower-case hexadecimal digits", value)
        return value


class Address(Text):
    """The address of a service that does some of the work, or None."""


class Path(Kind):
    """The path of a file, or None."""

    def checked(self, name: str, value: Any) -> Any:
        """The path as it was given."""
        if value is not None and not isinstance(value, str | os.PathLike):
            raise _wrong(name, "the path of a file", value)
        return value

    def plain(self, value: Any) -> Any:
        """The path as text."""
        return None if value is None else os.fspath(value)


class Folder(Path):
    """The path of a folder for temporary files, or None."""


class DataSet(Kind):
    """Data: the path of a file or folder, ``script.py:function``, or from Python an iterable or a function."""

    def checked(self, name: str, value: Any) -> Any:
        """Data as it was given; whether it holds what is needed is seen when it is read."""
        if isinstance(value, bool | int | float):
            raise _wrong(name, "data: a path, or from Python an iterable or a function", value)
        return value

    def plain(self, value: Any) -> str | bool:
        """The path where there is one, else whether there is any data."""
        return os.fspath(value) if isinstance(value, str | os.PathLike) else value is not None


class Feeds(DataSet):
    """Data that is read more than once."""

    def checked(self, name: str, value: Any) -> Any:
        """A list of what an iterator gives."""
        checked = super().checked(name, value)
        return list(checked) if isinstance(checked, Iterator) else checked


class Names(Kind):
    """Any number of names or patterns of names."""

    def checked(self, name: str, value: Any) -> tuple[str, ...]:
        """A tuple from any iterable of texts; a single text is refused, since its letters would be taken for names."""
        found = (value,) if isinstance(value, str | bytes) or not isinstance(value, Iterable) else tuple(value)
        if isinstance(value, str) or not all(isinstance(each, str) for each in found):
            raise _wrong(name, "a list of texts", value)
        return found

    def plain(self, value: Any) -> list[str]:
        """A list."""
        return list(value)

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The flag once for each."""
        for each in plain:
            yield from (flag, str(each))


class Passes(Kind):
    """Passes in order: names, ``script.py:function``, and from Python objects and functions. None: the default ones."""

    def checked(self, name: str, value: Any) -> tuple[Any, ...] | None:
        """Any iterable of them; whether there is such a pass is seen when it is looked for."""
        if value is None:
            return None
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise _wrong(name, "a list of passes: names, pass objects and functions", value)
        found = tuple(value)
        for each in found:
            is_text = isinstance(each, str | os.PathLike)
            if not (is_text or callable(each) or (hasattr(each, "name") and hasattr(each, "preserves"))):
                raise _wrong(name, "a list of passes: names, pass objects and functions", each)
        return found

    def plain(self, value: Any) -> list[str] | None:
        """The passes by name or ``script.py:function``; one that has no such name as ``<its own name>``."""
        return None if value is None else [_word(each) for each in value]

    def scripts(self, value: Any) -> Iterator[str]:
        """The passes among them that are functions of scripts, without their options."""
        for each in self.plain(value) or ():
            script, dot_py, rest = each.partition(".py:")
            if dot_py:
                yield f"{script}{dot_py}{rest.partition(':')[0]}"

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The flag once for each."""
        for each in plain:
            yield from (flag, str(each))


def is_from_python(word: str) -> bool:
    """Whether a pass, in its plain form, is one that no command line can name."""
    return word.startswith("<")


def _word(each: Any) -> str:
    if isinstance(each, str | os.PathLike):
        return os.fspath(each)
    if type(each).__module__.partition(".")[0] == "bnfold" and hasattr(each, "name"):
        options = getattr(each, "options", each)
        kind: Any = type(options)
        if hasattr(kind, "__dataclass_fields__") and options == kind():
            return str(each.name)
    name = str(getattr(each, "__name__", None) or getattr(each, "name", None) or type(each).__name__)
    module = sys.modules.get(str(getattr(each, "__module__", None)))
    script = getattr(module, "__file__", None) or ""
    stands_alone = script.endswith(".py") and not getattr(module, "__package__", None)
    if stands_alone and getattr(module, name, None) is each:
        return f"{_shortest(script)}:{name}"
    return f"<{name.strip('<>')}>"


def _shortest(path: str) -> str:
    """`path` as it is, or below the current folder where it is there."""
    full, here = os.path.realpath(path), os.path.realpath(os.curdir)
    return os.path.relpath(full, here) if os.path.commonpath([full, here]) == here else full


class Shapes(Kind):
    """Shapes by the name of an input."""

    def checked(self, name: str, value: Any) -> dict[str, tuple[int, ...]]:
        """A dict of tuples; None is none."""
        try:
            return {_name(each): tuple(map(index, shape)) for each, shape in (value or {}).items()}
        except (AttributeError, TypeError):
            raise _wrong(name, "a mapping of input names to lists of whole numbers", value) from None

    def plain(self, value: Any) -> dict[str, list[int]]:
        """Lists by name."""
        return {name: list(shape) for name, shape in value.items()}

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """``NAME:[1,3,224,224]`` for each."""
        for name, shape in plain.items():
            yield from (flag, f"{name}:[{','.join(map(str, shape))}]")


class Limit(Kind):
    """A number from 0 up for every output, or numbers by output name, "" for all that are not named; or None."""

    def checked(self, name: str, value: Any) -> float | dict[str, float] | None:
        """A float, or a dict of floats."""
        if value is None:
            return None
        try:
            if isinstance(value, Mapping):
                return {_name(each): _limit(number) for each, number in value.items()}
            return _limit(value)
        except (TypeError, ValueError):
            raise _wrong(name, "a number from 0 up, or such numbers by output name", value) from None

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The number, or ``OUTPUT:NUMBER`` for each output."""
        for name, number in plain.items() if isinstance(plain, Mapping) else [("", plain)]:
            yield from (flag, f"{name}:{number}" if name else str(number))


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _limit(value: Any) -> float:
    number = float(value)
    if isinstance(value, str | bool) or not number >= 0:
        raise ValueError
    return number


class Numbers(Kind):
    """One or more finite numbers, as of the channels of an image."""

    def checked(self, name: str, value: Any) -> tuple[float, ...]:
        """A tuple of floats."""
        try:
            found = tuple(float(each) for each in value) if not isinstance(value, str) else ()
        except (TypeError, ValueError):
            found = ()
        if not found or not all(map(math.isfinite, found)):
            raise _wrong(name, "a list of numbers", value)
        return found

    def plain(self, value: Any) -> list[float]:
        """A list."""
        return list(value)

    def words(self, flag: str, plain: Any) -> Iterator[str]:
        """The numbers with commas between them."""
        yield from (flag, commas(plain))


def commas(numbers: Iterable[float]) -> str:
    """``0.485,0.456,0.406``, as the command line reads numbers."""
    return ",".join(f"{number:g}" for number in numbers)


class Callback(Kind):
    """A function of the caller: something that Python alone can pass."""

    def checked(self, name: str, value: Any) -> Any:
        """A function, or None."""
        if value is not None and not callable(value):
            raise _wrong(name, "a function", value)
        return value


class Weights(Kind):
    """A `bnfold.Layout`, which says where weights go, or None for where the input has them."""

    def checked(self, name: str, value: Any) -> "Layout | None":
        """A Layout, also from the plain form of one."""
        from bnfold.onnxfile import Layout
        from bnfold.onnxfile import Weights as Where

        if value is None or isinstance(value, Layout):
            return value
        if not isinstance(value, Mapping) or not set(value) <= {"weights", "name", "size_threshold"}:
            raise _wrong(name, "a Layout", value)
        default = Layout()
        places = Word(tuple(each.value for each in Where))
        return Layout(
            Where(places.checked(f"{name}.weights", value.get("weights", default.weights.value))),
            Text().checked(f"{name}.name", value.get("name")),
            Whole().checked(f"{name}.size_threshold", value.get("size_threshold", default.size_threshold)),
        )

    def plain(self, value: Any) -> dict[str, Any] | None:
        """The fields of the Layout."""
        return None if value is None else asdict(value)

    def words(self, flag: str, plain: Any) -> Iterator[str]:  # noqa: ARG002 - it has three flags of its own
        """--inline, or --external-data with its name and --size-threshold."""
        if plain["weights"] != "external":
            yield "--inline"
            return
        yield f"--external-data={plain['name']}" if plain.get("name") else "--external-data"
        yield from ("--size-threshold", str(plain["size_threshold"]))


class Group(Kind, Record):
    """Options that belong together and are a class of options themselves, or None."""

    options: "type[Options]"

    def checked(self, name: str, value: Any) -> "Options | None":
        """The options, also from their plain form."""
        if value is None or isinstance(value, self.options):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(name, self.options.__name__, value)
        return self.options.from_dict(value)

    def plain(self, value: Any) -> dict[str, Any] | None:
        """Their plain form."""
        return None if value is None else value.to_dict()

    def words(self, flag: str, plain: Any) -> Iterator[str]:  # noqa: ARG002 - each has a flag of its own
        """The flags of the options that are not at their default."""
        yield from self.options.words(plain)
