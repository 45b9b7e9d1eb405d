"""Products of arrays: matrix products, dense layers and Einstein sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.errors import UserError, user_error
from graphc.ir.graph import Node, operators
from graphc.ir.types import Shape
from graphc.ops.broadcasting import axis_names, broadcast_index, broadcast_shape
from graphc.ops.define import Definition, Operand, axes, axis, define, op, sum_over
from graphc.ops.elementwise import add
from graphc.ops.messages import brief, check_values, describe, explained


@op
def matrix_product(a: Operand, b: Operand) -> Definition:
    """out[.., i, j] = sum over k of a[.., i, k] * b[.., k, j]; leading dimensions broadcast.

    A vector a has no i, a vector b has no j.
    """
    batch = broadcast_shape(a.shape[:-2], b.shape[:-2])
    names = [f"b{name}" for name in axis_names(len(batch))]
    leading = tuple(axis(name, extent) for name, extent in zip(names, batch, strict=True))
    i, j, k = axes("i j k")
    rows, columns = (i,) * (len(a.shape) > 1), (j,) * (len(b.shape) > 1)
    left = a[(*broadcast_index(a.shape[:-2], names), *rows, k)]
    right = b[(*broadcast_index(b.shape[:-2], names), k, *columns)]
    return define[(*leading, *rows, *columns)](sum_over[k](left * right))


@op
def dense_product(x: Operand, w: Operand) -> Definition:
    """out[.., o] = sum over k of x[.., k] * w[o, k]."""
    *leading, o, c = axes(" ".join(axis_names(len(x.shape) + 1)))
    return define[(*leading, o)](sum_over[c](x[(*leading, c)] * w[o, c]))


@op
def einstein_sum(*operands: Operand, terms: tuple[str, ...], result: str) -> Definition:
    """The sum of the product of all operands over every letter that ``result`` lacks."""
    letters = dict.fromkeys("".join(terms))
    index = dict(zip(letters, axes(" ".join(letters)), strict=True)) if letters else {}
    factors = [
        operand[tuple(index[letter] for letter in term)]
        for operand, term in zip(operands, terms, strict=True)
    ]
    summed = tuple(index[letter] for letter in letters if letter not in result)
    return define[tuple(index[letter] for letter in result)](
        sum_over[summed](math.prod(factors, start=1))
    )


def matmul(a: Node, b: Node) -> Node:
    """The matrix product of (.., I, K) and (.., K, J): (.., I, J).

    Leading dimensions broadcast as NumPy's do; a vector stands for one row (a) or column (b),
    which the result lacks.

    Raises:
        UserError: the inner dimensions differ, leading ones do not broadcast, or one is a scalar.
    """
    check_values("matmul", a, b)
    if not a.shape or not b.shape:
        raise user_error(
            "matmul: a scalar has no inner dimension", *describe([a, b]),
            "expected vectors or matrices; to scale a value use *",
        )  # fmt: skip
    rows, which = (b.shape[-2], "last but one") if len(b.shape) > 2 else (b.shape[0], "first")
    if a.shape[-1] != rows:
        raise user_error(
            "matmul: the inner dimensions differ", *describe([a, b]),
            f"a's last and b's {which} dimension must be equal, here {a.shape[-1]} and {rows}.",
        )  # fmt: skip
    try:
        broadcast_shape(a.shape[:-2], b.shape[:-2])
    except UserError:
        raise user_error(
            "matmul: the leading dimensions do not broadcast", *describe([a, b]),
            "all but the last two must be equal or 1, "
            f"here {list(a.shape[:-2])} and {list(b.shape[:-2])}",
        ) from None  # fmt: skip
    return matrix_product(a, b, label="matmul")


def dense(x: Node, w: Node, b: Node | None = None) -> Node:
    """A dense layer x w^T + b.

    Args:
        x: (.., K).
        w: weights (O, K), one row an output.
        b: bias (O,) or None.

    Returns:
        (.., O).

    Raises:
        UserError: the shapes do not fit.
    """
    given = [x, w] if b is None else [x, w, b]
    check_values("dense", *given)
    if not x.shape or len(w.shape) != 2 or x.shape[-1] != w.shape[1]:
        raise user_error(
            "dense: the input features differ", *describe(given, "xwb"),
            "x must be (.., K) and w (O, K): one row of weights for each output",
        )  # fmt: skip
    product = dense_product(x, w, label="dense")
    if b is None:
        return product
    if b.shape != (w.shape[0],):
        raise user_error(
            "dense: the bias does not fit the weights", *describe(given, "xwb"),
            f"b must have shape [{w.shape[0]}], one number for each output",
        )  # fmt: skip
    return add(product, b)


def einsum(subscripts: str, *operands: Node) -> Node:
    """The Einstein sum, such as ``einsum("bij,bjk->bik", a, b)``.

    Args:
        subscripts: one letter a dimension, terms separated by commas, then ``->`` and the result.
            A letter twice in one term is the diagonal. Without ``->`` the result has the letters
            that occur once, in alphabetical order.
        operands: one value for each term.

    Raises:
        UserError: the subscripts do not fit the operands, or one letter has different extents.
    """
    if not isinstance(subscripts, str):
        raise user_error(f"einsum: expected subscripts, here {brief(subscripts)}", "as in 'ij->ji'")
    check_values("einsum", *operands)
    terms, result = _subscripts(subscripts)
    shapes = tuple(operand.shape for operand in operands)
    try:
        _check_subscripts(terms, result, shapes)
    except UserError as error:
        raise explained(f"einsum '{subscripts}'", error, operands) from None
    return einstein_sum(*operands, terms=terms, result=result, label="einsum")


def _subscripts(text: str) -> tuple[tuple[str, ...], str]:
    left, arrow, right = text.replace(" ", "").partition("->")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    return tuple(left.split(",")), right


def _check_subscripts(terms: Sequence[str], result: str, shapes: Sequence[Shape]) -> None:
    if not all((term + result).isalpha() or not term + result for term in terms):
        raise UserError(
            "the subscripts cannot be read\nexpected letters, commas and one '->'; '...' is not "
            "supported"
        )
    if len(terms) != len(shapes):
        raise UserError(
            f"the number of operands differs\nexpected {len(terms)}, one a term, here {len(shapes)}"
        )
    if len(set(result)) != len(result) or not set(result) <= set("".join(terms)):
        raise UserError(
            f"the result '{result}' cannot be formed\neach of its letters must occur in it once, "
            "and in a term"
        )
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape):
            raise UserError(
                f"'{term}' does not fit its operand\nit names {len(term)} dimensions, the operand "
                f"has {len(shape)}"
            )
        for letter, extent in zip(term, shape, strict=True):
            if extents.setdefault(letter, extent) != extent:
                raise UserError(
                    f"'{letter}' has two extents\nevery dimension named '{letter}' must be equal, "
                    f"here {extents[letter]} and {extent}"
                )


operators["matmul"] = matmul
