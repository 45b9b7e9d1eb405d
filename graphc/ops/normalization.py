"""Normalisation over the batch, over trailing dimensions, or over neighbouring channels."""

from __future__ import annotations

import math
from typing import Any

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.types import element_count
from graphc.ops.broadcasting import axis_names
from graphc.ops.define import Definition, Operand, axes, axis, define, op, sum_over
from graphc.ops.effects import assign
from graphc.ops.elementwise import add, elementwise, floating, multiply, sympy_number
from graphc.ops.messages import brief, check_flag, check_values, describe
from graphc.ops.windows import places


@op
def channel_mean(x: Operand) -> Definition:
    """out[c] = sum over n, i of x[n,c,i] / m."""
    (n, c), i = axes("n c"), places(len(x.shape) - 2)
    count = element_count(x.shape) // x.shape[1]
    return define[c](sum_over[n, *i](x[n, c, *i] / count))


@op
def channel_variance(x: Operand, mean: Operand) -> Definition:
    """out[c] = sum over n, i of (x[n,c,i] - mean[c])**2 / m: the biased variance."""
    (n, c), i = axes("n c"), places(len(x.shape) - 2)
    count = element_count(x.shape) // x.shape[1]
    return define[c](sum_over[n, *i]((x[n, c, *i] - mean[c]) ** 2 / count))


@op
def channel_affine(
    x: Operand, mean: Operand, scale: Operand, gamma: Operand, beta: Operand
) -> Definition:
    """out[n,c,i] = gamma[c] * ((x[n,c,i] - mean[c]) * scale[c]) + beta[c]."""
    (n, c), i = axes("n c"), places(len(x.shape) - 2)
    return define[n, c, *i](gamma[c] * ((x[n, c, *i] - mean[c]) * scale[c]) + beta[c])


@op
def row_mean(x: Operand, *, count: int) -> Definition:
    """Mean over the last ``count`` dimensions."""
    i, r = _rows(x, count)
    return define[i](sum_over[r](x[*i, *r] / element_count(x.shape[-count:])))


@op
def row_variance(x: Operand, mean: Operand, *, count: int) -> Definition:
    """Biased variance over the last ``count`` dimensions."""
    i, r = _rows(x, count)
    size = element_count(x.shape[-count:])
    return define[i](sum_over[r]((x[*i, *r] - mean[i]) ** 2 / size))


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
def neighbour_energy(x: Operand, *, size: int, alpha: float) -> Definition:
    """out[n,c,i] = alpha/size * sum over r of x[n, c + r - size//2, i]**2."""
    (n, c), i = axes("n c"), places(len(x.shape) - 2)
    r, scale = axis("r", size), sympy_number(alpha) / size
    x = x.padded(((0, 0), (size // 2, (size - 1) // 2), *((0, 0),) * len(i)))
    return define[n, c, *i](sum_over[r](scale * x[n, c + r, *i] ** 2))


def batch_norm(
    x: Node, gamma: Node, beta: Node, running_mean: Node, running_var: Node, *, training: bool,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Node:  # fmt: skip
    """Batch normalisation (Ioffe and Szegedy 2015): gamma * (x - mean) / sqrt(var + eps) + beta.

    Args:
        x: floating (N, C) or (N, C, ...).
        gamma: scale of every channel, (C,).
        beta: shift of every channel, (C,).
        running_mean: state (C,).
        running_var: state (C,).
        training: True normalises by the batch's own mean and biased variance, and lets the
            running ones move towards the batch's mean and unbiased variance after the step;
            False normalises by the running ones.
        momentum: how far they move.
        eps: added to the variance.

    Raises:
        UserError: shapes do not fit, or a channel of the batch has a single element.
    """
    _check_channels("batch_norm", x, gamma, beta, running_mean, running_var)
    _check_numbers("batch_norm", least=0, momentum=momentum, eps=eps)
    check_flag("batch_norm", "training", training)
    if not training:
        scale = elementwise("reciprocal_root", _reciprocal_root, running_var, eps)
        result: Node = channel_affine(x, running_mean, scale, gamma, beta)
        return result
    count = element_count(x.shape) // x.shape[1]
    if count == 1:
        raise user_error(
            "batch_norm: one element a channel has no variance",
            *describe((x,), "x"),
            "train with a larger batch, or call with training=False",
        )
    mean = channel_mean(x)
    var = channel_variance(x, mean)
    unbiased = momentum * count / (count - 1)
    assign(running_mean, _moved(running_mean, mean, 1 - momentum, momentum), when=mean)
    assign(running_var, _moved(running_var, var, 1 - momentum, unbiased), when=mean)
    scale = elementwise("reciprocal_root", _reciprocal_root, var, eps)
    normal: Node = channel_affine(x, mean, scale, gamma, beta)
    return normal


def layer_norm(x: Node, gamma: Node, beta: Node, axes: int = 1, *, eps: float = 1e-5) -> Node:
    """Normalisation over the last ``axes`` dimensions (Ba et al. 2016), biased variance.

    Args:
        x: floating, at least ``axes`` dimensions.
        gamma: scale, of the shape of x's last ``axes`` dimensions.
        beta: shift, of the same shape.
        axes: number of dimensions.
        eps: added to the variance.
    """
    check_values("layer_norm", x, gamma, beta)
    floating("layer_norm", x, gamma, beta)
    if not isinstance(axes, int) or not 1 <= axes <= len(x.shape):
        raise user_error(
            f"layer_norm: axes is {brief(axes)}", *describe([x], "x"),
            f"expected how many dimensions to normalise over, 1..{len(x.shape)}",
        )  # fmt: skip
    if gamma.shape != x.shape[-axes:] or beta.shape != x.shape[-axes:]:
        raise user_error(
            "layer_norm: gamma or beta does not fit x",
            *describe((x, gamma, beta), ("x", "gamma", "beta")),
            f"gamma and beta must have shape {list(x.shape[-axes:])}",
        )
    _check_numbers("layer_norm", least=0, eps=eps)
    mean = row_mean(x, count=axes)
    variance = row_variance(x, mean, count=axes)
    scale = elementwise("reciprocal_root", _reciprocal_root, variance, eps)
    result: Node = row_affine(x, mean, scale, gamma, beta, count=axes)
    return result


def local_response_norm(
    x: Node, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Node:
    """Divide x by (k + alpha * mean of x**2 over ``size`` neighbouring channels) ** beta.

    Zeros stand beyond the first and last channel (Krizhevsky et al. 2012, who sum instead of
    taking the mean: their alpha is ours divided by ``size``).

    Args:
        x: floating (N, C, ...).
        size: number of channels, the channel itself included.
        alpha: weight of the neighbours.
        beta: exponent.
        k: keeps the divisor away from 0.
    """
    floating("local_response_norm", x)
    _check_rank("local_response_norm", x)
    if not isinstance(size, int) or size < 1:
        raise user_error(
            f"local_response_norm: size is {brief(size)}", "expected a positive integer"
        )
    _check_numbers("local_response_norm", alpha=alpha, beta=beta, k=k)
    energy = neighbour_energy(x, size=size, alpha=alpha)
    return elementwise("local_response_norm", _damped, x, energy, k, beta)


def _reciprocal_root(variance: Any, eps: Any) -> Any:
    return (variance + eps) ** sympy.Rational(-1, 2)


def _damped(x: Any, energy: Any, k: Any, beta: Any) -> Any:
    return x * (k + energy) ** -beta


def _moved(running: Node, batch: Node, keep: float, take: float) -> Node:
    return add(multiply(running, keep), multiply(batch, take))


def _check_rank(what: str, x: Node) -> None:
    check_values(what, x)
    if not 2 <= len(x.shape) <= 5:
        raise user_error(
            f"{what}: x must have two to five dimensions, here {len(x.shape)}",
            *describe([x], "x"),
            "the order is (batch, channels, *places); reshape it first: gx.reshape",
        )


def _check_numbers(what: str, least: float = -math.inf, **numbers: object) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not least <= value < math.inf:
            bound = "" if least == -math.inf else f" of at least {least}"
            raise user_error(f"{what}: {name} is {brief(value)}", f"expected a number{bound}")


def _check_channels(what: str, x: Node, *channels: Node) -> None:
    check_values(what, x, *channels)
    floating(what, x, *channels)
    _check_rank(what, x)
    if any(value.shape != (x.shape[1],) for value in channels):
        names = ("x", "gamma", "beta", "running_mean", "running_var")
        raise user_error(
            f"{what}: x has {x.shape[1]} channels", *describe((x, *channels), names),
            f"every array beside x must have shape [{x.shape[1]}], one number a channel",
        )  # fmt: skip
