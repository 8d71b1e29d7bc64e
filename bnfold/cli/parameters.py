"""The notations of the command line, turned into the values the api takes.

Plain functions that raise `click.BadParameter`: which option it was, click adds.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import click

from bnfold.options import LimitByOutput

_SECONDS = {"s": 1, "m": 60, "h": 3600}

Shape = tuple[int, ...]


def input_shape(text: str) -> tuple[str, Shape]:
    """``NAME:1,3,224,224`` or ``NAME:[1,3,224,224]`` as the name and its dims, each at least 1.

    The last colon counts, since the names of ONNX values may hold some.
    """
    name, colon, dims = text.rpartition(":")
    if not colon or not name:
        raise click.BadParameter(f"{text!r} has no name: write it like input:1,3,224,224")
    inner = dims.removeprefix("[").removesuffix("]").strip()
    if not inner and dims.strip() != "[]":
        raise click.BadParameter(f"{text!r} has no dims: write it like {name}:1,3,224,224, a scalar as {name}:[]")
    try:
        shape = tuple(int(dim) for dim in inner.split(",")) if inner else ()
    except ValueError:
        message = f"{dims!r} is not a list of whole numbers: write it like {name}:1,3,224,224"
        raise click.BadParameter(message) from None
    if any(dim < 1 for dim in shape):
        raise click.BadParameter(f"{dims!r} has a dim below 1: a shape to run with needs real sizes")
    return name, shape


def limit(text: str) -> float:
    """A tolerance: a finite number that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise click.BadParameter(f"{text!r} is not a number from 0 up, like 1e-5")
    return number


def output_limit(text: str) -> tuple[str, float]:
    """``1e-3``, for every output, as "" and the number; ``OUTPUT:1e-3`` as the name and the number.

    The last colon counts, since the names of ONNX values may hold some.
    """
    name, colon, number = text.rpartition(":")
    if colon and not name:
        raise click.BadParameter(f"{text!r} names no output: write it like logits:1e-3, or 1e-3 for all")
    return name, limit(number)


def limit_per_output(
    ctx: click.Context | None, param: click.Parameter | None, value: Sequence[tuple[str, float]]
) -> LimitByOutput | None:
    """One number where it is for every output, else numbers by output, "" for all others; None for nothing."""
    limits = dict(value)
    if len(limits) != len(value):
        raise click.BadParameter("an output, or all of them, was given more than one limit", ctx=ctx, param=param)
    return limits[""] if set(limits) == {""} else limits or None


def data_path(text: str) -> str:
    """A file or folder that exists, or ``script.py:function`` where the script does."""
    from bnfold.addresses import is_address
    from bnfold.batches import script_of

    if is_address(text):
        raise click.BadParameter(f"{text} is an address, and data is read from files: download it")
    script = script_of(text)
    if not (Path(text) if script is None else script[0]).exists():
        raise click.BadParameter(f"{text!r} does not exist: name an .npz file, a folder, or script.py:function")
    return text


def seconds(text: str) -> float:
    """A time: a number above 0 of seconds, or of what follows it (s, m, h), not so large that it means no limit."""
    number, unit = text.strip(), 1
    if number[-1:].lower() in _SECONDS:
        number, unit = number[:-1], _SECONDS[number[-1:].lower()]
    try:
        found = float(number) * unit
    except ValueError:
        found = math.nan
    if not 0 < found <= 1e9:
        raise click.BadParameter(f"{text!r} is not a number of seconds, like 60, or 5m or 2h")
    return found


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SMALLEST_MEMORY = 256 << 20
"""Python, numpy, onnx and onnxruntime alone take half of it."""


def nbytes(text: str) -> int:
    """A number of bytes, with a unit of powers of 1024: `500M`, `2G`, `1.5GiB`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    number = int(float(found[1]) * _UNITS[found[2].upper()]) if found is not None and len(text) <= 30 else 0
    if not 0 < number < 1 << 62:
        raise click.BadParameter(f"{text!r} is not a size: write it like 500M or 2G")
    return number


def room(text: str) -> int:
    """The bytes of memory or disk that may be used, written as for `nbytes`, or 0."""
    return 0 if text.strip() == "0" else nbytes(text)


def size(text: str) -> int:
    """A limit on memory in bytes, written as for `nbytes`. At least `SMALLEST_MEMORY`."""
    number = nbytes(text)
    if number < SMALLEST_MEMORY:
        raise click.BadParameter(f"{text!r} is too little: the programs alone need 256M")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """``0.485,0.456,0.406`` as finite numbers."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise click.BadParameter(f"{text!r} is not a list of numbers, like 0.485,0.456,0.406")
    return found


def one_shape_per_name(
    ctx: click.Context, param: click.Parameter, value: Sequence[tuple[str, Shape]]
) -> dict[str, Shape]:
    """The shapes by name; a usage error where a name comes twice."""
    shapes = dict(value)
    if len(shapes) != len(value):
        raise click.BadParameter("an input was given more than one shape", ctx=ctx, param=param)
    return shapes


def known_codes(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Codes of diagnoses and reasons; a usage error for any other, which would never be found."""
    from bnfold.decisions import Diagnosis, Reason

    known = {each.code for each in (*Diagnosis, *Reason)}
    for code in value:
        if code not in known:
            names = ", ".join(each.code for each in Diagnosis)
            raise click.BadParameter(f"{code!r} is no code; diagnoses are {names}", ctx=ctx, param=param)
    return tuple(value)
