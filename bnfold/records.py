"""Records: frozen dataclasses that cost next to nothing to define.

`dataclass` writes the methods of each class as text and compiles them, half a millisecond for a class: for all of
bnfold's that is a third of the start of a command. What is made a few times in a run is a `Record`; what is made for
each node, and holds no more than values, is a NamedTuple, which is made sooner.
"""

import dataclasses
import inspect
from typing import Any, ClassVar, dataclass_transform


class _Signature:
    """The signature of a class of records, made where one is asked for."""

    def __get__(self, made: "Record | None", record: "type[Record]") -> inspect.Signature:
        return inspect.Signature(list(map(_parameter, dataclasses.fields(record))))


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if field.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = field.default
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty if field.default_factory is dataclasses.MISSING else field.default_factory
    return inspect.Parameter(field.name, kind, default=default, annotation=field.type)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Record:
    """The base of frozen dataclasses that share their methods: a subclass is one without a decorator.

    Two are equal where they are of the same class and hold the same, as of dataclasses; what `field` says of defaults,
    `repr`, `hash` and `compare` holds. There is no `__post_init__`.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    __match_args__: ClassVar[tuple[str, ...]]
    __signature__: ClassVar[_Signature] = _Signature()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)

    def __init__(self, *values: Any, **named: Any) -> None:
        given = dict(zip(self.__match_args__, values, strict=False)) | named
        held = {
            each.name: given[each.name] if each.name in given else _default(each) for each in dataclasses.fields(self)
        }
        missing = any(value is dataclasses.MISSING for value in held.values())
        if missing or len(given) < len(values) + len(named) or not given.keys() <= held.keys():
            self.__signature__.bind(*values, **named)  # raises TypeError, which says what is wrong
        self.__dict__.update(held)

    def __repr__(self) -> str:
        shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared(hashed=True))

    def _compared(self, *, hashed: bool = False) -> tuple[Any, ...]:
        return tuple(
            getattr(self, each.name)
            for each in dataclasses.fields(self)
            if (each.compare if each.hash is None or not hashed else each.hash)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
