"""The notations of the command line, turned into the values the api takes."""

import math
from collections.abc import Sequence

import click

Shape = tuple[int, ...]


class InputShape(click.ParamType[tuple[str, Shape]]):
    """``NAME:1,3,224,224`` or ``NAME:[1,3,224,224]``; the last colon counts, since ONNX names may hold some."""

    name = "NAME:DIMS"

    def convert(
        self, value: str | tuple[str, Shape], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Shape]:
        """The input's name and its dims, each at least 1."""
        if isinstance(value, tuple):
            return value
        name, colon, dims = value.rpartition(":")
        if not colon or not name:
            self.fail(f"{value!r} has no name: write it like input:1,3,224,224", param, ctx)
        inner = dims.removeprefix("[").removesuffix("]").strip()
        if not inner and dims.strip() != "[]":
            self.fail(f"{value!r} has no dims: write it like {name}:1,3,224,224, a scalar as {name}:[]", param, ctx)
        try:
            shape = tuple(int(dim) for dim in inner.split(",")) if inner else ()
        except ValueError:
            self.fail(f"{dims!r} is not a list of whole numbers: write it like {name}:1,3,224,224", param, ctx)
        if any(dim < 1 for dim in shape):
            self.fail(f"{dims!r} has a dim below 1: a shape to run with needs real sizes", param, ctx)
        return name, shape


class Limit(click.ParamType[float]):
    """A tolerance: a finite number that is not negative."""

    name = "NUMBER"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            self.fail(f"{value!r} is not a number from 0 up, like 1e-5", param, ctx)
        return number


def one_shape_per_name(
    ctx: click.Context, param: click.Parameter, value: Sequence[tuple[str, Shape]]
) -> dict[str, Shape]:
    """The shapes by name; a usage error where a name comes twice."""
    shapes = dict(value)
    if len(shapes) != len(value):
        raise click.BadParameter("an input was given more than one shape", ctx=ctx, param=param)
    return shapes
