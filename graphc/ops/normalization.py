"""Normalisation over the batch, over trailing dimensions, or over neighbouring channels."""

from __future__ import annotations

from typing import Any

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.scalar_functions import detach
from graphc.ir.types import element_count
from graphc.ops.define import Definition, Operand, axes, axis, define, describe, op, sum_over
from graphc.ops.effects import assign
from graphc.ops.elementwise import axis_names, elementwise, floating, sympy_number


@op
def channel_mean(x: Operand) -> Definition:
    """out[c] = sum over n, i of x[n,c,i] / m."""
    n, c, *i = axes("n c " + " ".join(axis_names(len(x.shape) - 2)))
    count = element_count(x.shape) // x.shape[1]
    return define[c](sum_over[n, *i](x[n, c, *i] / count))


@op
def channel_variance(x: Operand, mean: Operand) -> Definition:
    """out[c] = sum over n, i of (x[n,c,i] - mean[c])**2 / m.

    The mean carries no gradient: its term is a multiple of the sum of x - mean, which is 0.
    """
    n, c, *i = axes("n c " + " ".join(axis_names(len(x.shape) - 2)))
    count = element_count(x.shape) // x.shape[1]
    return define[c](sum_over[n, *i]((x[n, c, *i] - detach(mean[c])) ** 2 / count))


@op
def channel_affine(
    x: Operand, mean: Operand, scale: Operand, gamma: Operand, beta: Operand
) -> Definition:
    """out[n,c,i] = gamma[c] * ((x[n,c,i] - mean[c]) * scale[c]) + beta[c]."""
    n, c, *i = axes("n c " + " ".join(axis_names(len(x.shape) - 2)))
    return define[n, c, *i](gamma[c] * ((x[n, c, *i] - mean[c]) * scale[c]) + beta[c])


@op
def row_mean(x: Operand, *, count: int) -> Definition:
    """Mean over the last ``count`` dimensions."""
    i, r = _rows(x, count)
    return define[i](sum_over[r](x[*i, *r] / element_count(x.shape[-count:])))


@op
def row_variance(x: Operand, mean: Operand, *, count: int) -> Definition:
    """Biased variance over the last ``count`` dimensions; see ``channel_variance``."""
    i, r = _rows(x, count)
    size = element_count(x.shape[-count:])
    return define[i](sum_over[r]((x[*i, *r] - detach(mean[i])) ** 2 / size))


@op
def row_affine(
    x: Operand, mean: Operand, scale: Operand, gamma: Operand, beta: Operand, *, count: int
) -> Definition:
    """out[i,r] = gamma[r] * ((x[i,r] - mean[i]) * scale[i]) + beta[r]."""
    i, r = _rows(x, count)
    return define[*i, *r](gamma[r] * ((x[*i, *r] - mean[i]) * scale[i]) + beta[r])


def _rows(x: Operand, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    every = axes(" ".join(axis_names(len(x.shape))))
    return every[:-count], every[-count:]


@op
def neighbour_response(
    x: Operand, *, size: int, alpha: float, beta: float, k: float
) -> Definition:
    """out[n,c,i] = k + alpha/size * sum over r of x[n, c + r - size//2, i]**2."""
    n, c, *i = axes("n c " + " ".join(axis_names(len(x.shape) - 2)))
    r = axis("r", size)
    around = ((0, 0), (size // 2, (size - 1) // 2), *((0, 0),) * len(i))
    return define[n, c, *i](sum_over[r](x.padded(around)[n, c + r, *i] ** 2))
