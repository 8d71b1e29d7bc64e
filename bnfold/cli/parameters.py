"""The notations of the command line, turned into the values the api takes.

Plain functions that raise `click.BadParameter`: which option it was, click adds.
"""

import math
from collections.abc import Sequence

import click

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
