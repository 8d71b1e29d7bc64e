"""Bounds of the rounding errors of operators that are not linear, as operators of a domain of their own.

Each reads, beside the values that the operator reads, what bounds them: `m` with |x| <= m, where x is off by at most
u m. What it makes bounds the operator's value and its error in the same way, to first order in u.
"""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.equivalence.numbers.element_types import Array

DOMAIN = "bnfold.bounds"


class Twice(OpRun):
    """Of what is linear in each of two factors, as it is of what bounds them: each of the two is off by itself."""

    op_domain = DOMAIN

    def _run(self, m: Array) -> tuple[Array]:
        return (2.0 * m,)


class Quotient(OpRun):
    """a / d, where d is further from 0 than twice its error: |a / d| <= m / |d|, off by u (m / |d| + m n / d^2).

    Infinite where d is 0, also for 0 / 0: a MaxPool behind it would pass over what is no number.
    """

    op_domain = DOMAIN

    def _run(self, m: Array, d: Array, n: Array) -> tuple[Array]:
        size = np.abs(d)
        return (np.where(size > 0.0, 2.0 * m / size * (1.0 + n / size), np.inf),)


class Normalized(OpRun):
    """An InstanceNormalization, s x' + b with x' = (x - mean) / deviation.

    Its derivative in x along e is s / deviation (e - mean(e) - x' mean(x' e)).
    """

    op_domain = DOMAIN

    def _run(self, x: Array, m: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> tuple[Array]:
        axes, shape = tuple(range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))

        def mean(array: Array) -> Any:
            return array.mean(axis=axes, keepdims=True)

        centred = x - mean(x)
        deviation = np.sqrt(mean(centred**2) + epsilon)
        normal = np.abs(centred / deviation)
        spread = (m + mean(m) + normal * mean(normal * m)) / deviation
        return (np.abs(scale).reshape(shape) * spread + np.abs(bias).reshape(shape),)


BOUNDS: list[type[OpRun]] = [Twice, Quotient, Normalized]
