"""Softmax, and the losses that a network is trained on; each loss is a scalar, a mean."""

from __future__ import annotations

from typing import Any

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.scalar_functions import select, softplus
from graphc.ir.types import DType
from graphc.ops.broadcasting import axis_names
from graphc.ops.define import (
    Definition,
    Operand,
    axes,
    axis,
    define,
    indicator,
    layer_scope,
    op,
    position,
    sum_over,
)
from graphc.ops.elementwise import (
    divide,
    elementwise,
    exp,
    floating,
    stop_gradient,
    subtract,
)
from graphc.ops.leaves import legal_dtype
from graphc.ops.messages import brief, check_values, describe
from graphc.ops.reductions import logsumexp, max, mean, sum
from graphc.ops.windows import places


@op
def picked(z: Operand, y: Operand) -> Definition:
    """out[n,i] = sum over k of [k = y[n,i]] * z[n,k,i], exact where other z are infinite."""
    n, k = axes("n k")
    i = places(len(y.shape) - 1)
    chosen = sympy.Eq(position(k), y[n, *i])
    return define[n, *i](sum_over[k](select(chosen, z[n, k, *i], sympy.Integer(0))))


def _one_hot(y: Operand, *, classes: int) -> Definition:
    """out[n,..,k] = [k = y[n,..]]."""
    n = axes(" ".join(axis_names(len(y.shape))))
    k = axis("c", classes)
    return define[*n, k](indicator(sympy.Eq(position(k), y[n])))


_ONE_HOT: dict[DType, Any] = {
    d: op(_one_hot, dtype=d.value) for d in DType if d is not DType.boolean
}


def softmax(x: Node, axis: int = -1) -> Node:
    """exp(x) / sum of exp(x) along an axis, shifted by the maximum, which carries no gradient."""
    floating("softmax", x)
    shifted = exp(subtract(x, stop_gradient(max(x, axis, keepdims=True))))
    return divide(shifted, sum(shifted, axis, keepdims=True))


def log_softmax(x: Node, axis: int = -1) -> Node:
    """The logarithm of softmax: x - log of the sum of exp(x) along an axis."""
    floating("log_softmax", x)
    return subtract(x, logsumexp(x, axis, keepdims=True))


def one_hot(labels: Node, classes: int, dtype: str | DType = "float32") -> Node:
    """1 at the label's place of a new last dimension, else 0.

    A label that is fed must lie inside of it; a computed one that does not gives zeros.

    Args:
        labels: integers of any shape.
        classes: extent of the new dimension.
        dtype: element type of the result.
    """
    _check_integers("one_hot", labels)
    if not isinstance(classes, int) or classes < 1:
        raise user_error(f"one_hot: classes is {brief(classes)}", "expected a positive integer")
    kind = legal_dtype("one_hot", dtype)
    if kind not in _ONE_HOT:
        raise user_error(f"one_hot: a result of type {kind.value} is not supported", "use 'uint8'")
    result: Node = _ONE_HOT[kind](labels, classes=classes)
    return result


def cross_entropy(logits: Node, labels: Node) -> Node:
    """Mean of logsumexp(z) - z[label]: softmax and cross-entropy in one, without overflow.

    Args:
        logits: floating (N, K) or (N, K, ...).
        labels: integers 0 .. K-1 of shape (N,) or (N, ...).

    Returns:
        A scalar.

    Raises:
        UserError: the shapes do not belong together or a type is wrong.
    """
    check_values("cross_entropy", logits)
    floating("cross_entropy", logits)
    _check_integers("cross_entropy", labels)
    if not 2 <= len(logits.shape) <= 5 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise user_error(
            "cross_entropy: the labels do not belong to the logits",
            *describe((logits, labels), ("logits", "labels")),
            "logits (N, K, ...) of two to five dimensions need labels (N, ...)",
        )
    with layer_scope("loss"):
        return mean(subtract(logsumexp(logits, 1), picked(logits, labels)))


def squared_error(prediction: Node, target: Node) -> Node:
    """Mean of (prediction - target)**2 over all elements; equal shapes."""
    _check_equal_shapes("squared_error", prediction, target)
    with layer_scope("loss"):
        return mean(elementwise("squared_error", _squared_difference, prediction, target))


def binary_cross_entropy(logits: Node, targets: Node) -> Node:
    """Mean of -y*log(p) - (1-y)*log(1-p) with p = sigmoid(logits), without overflow.

    Args:
        logits: floating, any shape.
        targets: probabilities y of the same shape and type.
    """
    _check_equal_shapes("binary_cross_entropy", logits, targets)
    with layer_scope("loss"):
        return mean(elementwise("binary_cross_entropy", _binary_cross_entropy, logits, targets))


def _squared_difference(a: Any, b: Any) -> Any:
    return (a - b) ** 2


def _binary_cross_entropy(z: Any, y: Any) -> Any:
    return softplus(z) - y * z


def _check_integers(what: str, labels: Node) -> None:
    check_values(what, labels)
    if labels.dtype.is_float or labels.dtype is DType.boolean:
        raise user_error(
            f"{what}: the labels must be integers", *describe([labels], ["labels"]),
            "declare them so: gx.input('labels', (batch,), 'int64')",
        )  # fmt: skip


def _check_equal_shapes(what: str, a: Node, b: Node) -> None:
    check_values(what, a, b)
    floating(what, a, b)
    if a.shape != b.shape:
        raise user_error(f"{what}: the shapes differ", *describe((a, b)), "they must be equal")
