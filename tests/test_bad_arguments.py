"""Any wrong argument of any op is refused in the user's words, or the op has a meaning for it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.ops.messages import brief

x2 = gx.input("x2", (4, 6))
x3 = gx.input("x3", (2, 3, 8))
x4 = gx.input("x4", (2, 3, 8, 8))
x5 = gx.input("x5", (2, 3, 4, 4, 4))
truth = gx.input("truth", (4, 6), "bool")
labels = gx.input("labels", (4,), "int64")
three = gx.parameter("three", (3,))
six = gx.parameter("six", (6,))
mean3 = gx.state("mean3", (3,), 0.0)
var3 = gx.state("var3", (3,), 1.0)
loss = gx.mean(x2 * six)

UNARY = [
    "abs", "cos", "erf", "exp", "flatten", "log", "negative", "reciprocal", "relu", "sigmoid",
    "sign", "silu", "sin", "softplus", "sqrt", "square", "squeeze", "stop_gradient", "tanh",
    "transpose",
]  # fmt: skip
REDUCTIONS = [
    "argmax", "argmin", "log_softmax", "logsumexp", "max", "mean", "min", "prod", "softmax", "sum",
    "variance",
]  # fmt: skip
BINARY = [
    "add", "binary_cross_entropy", "divide", "equal", "greater", "greater_equal", "less",
    "less_equal", "maximum", "minimum", "multiply", "not_equal", "power", "squared_error",
    "subtract",
]  # fmt: skip
POOLS = {f"{kind}_pool{d}d": d for kind in ("max", "mean", "lp") for d in (1, 2, 3)}
IMAGES = {1: x3, 2: x4, 3: x5}


def filters(rank: int) -> gx.Node:
    return gx.parameter("filters", (3, 3, *(2,) * rank))


CALLS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    **{name: ([x2], {}) for name in UNARY},
    **{name: ([x2], {"axis": 1}) for name in REDUCTIONS},
    **{name: ([x2, x2], {}) for name in BINARY},
    **{name: ([IMAGES[d], 2], {"stride": 2, "padding": 0}) for name, d in POOLS.items()},
    **{
        f"conv{d}d": ([IMAGES[d], filters(d), three],
                      {"stride": 1, "padding": 0, "dilation": 1, "groups": 1})
        for d in (1, 2, 3)
    },
    **{
        f"conv_transpose{d}d": ([IMAGES[d], filters(d), three],
                                {"stride": 2, "padding": 0, "output_padding": 0, "dilation": 1,
                                 "groups": 1})
        for d in (1, 2, 3)
    },
    **{name: ([x4, 2], {}) for name in
       ("upsample", "downsample", "upsample_linear", "upsample_nearest")},
    "assign": ([mean3, mean3 * 2, x2], {}),
    "batch_norm": ([x4, three, three, mean3, var3],
                   {"training": True, "momentum": 0.1, "eps": 1e-5}),
    "broadcast_to": ([six], {"shape": (4, 6)}),
    "cast": ([x2, "float64"], {}),
    "clip": ([x2, 0.0, 1.0], {}),
    "compile": ([[loss]], {"target": "c", "threads": 1}),
    "concat": ([[x2, x2]], {"axis": 1}),
    "constant": ([[1.0, 2.0]], {"dtype": "float32"}),
    "cross_entropy": ([x2, labels], {}),
    "dense": ([x2, gx.parameter("w", (5, 6)), gx.parameter("b", (5,))], {}),
    "dropout": ([x2, 0.5], {"training": True, "seed": 1, "stream": 2}),
    "einsum": (["ij,kj->ik", x2, x2], {}),
    "elu": ([x2, 1.0], {}),
    "evaluate": ([[x2 * 2], {x2: np.ones((4, 6))}], {"float_dtype": "float64"}),
    "expand_dims": ([x2, 1], {}),
    "flip": ([x2], {"axis": 1}),
    "gelu": ([x2, "tanh"], {}),
    "global_max_pool": ([x4], {}),
    "global_mean_pool": ([x4], {}),
    "gradients": ([loss, [six]], {}),
    "input": (["name", (2, 3), "float32"], {}),
    "layer_norm": ([x2, six, six, 1], {"eps": 1e-5}),
    "leaky_relu": ([x2, 0.01], {}),
    "local_response_norm": ([x4, 3, 1e-4, 0.75, 1.0], {}),
    "logical_and": ([truth, truth], {}),
    "logical_not": ([truth], {}),
    "logical_or": ([truth, truth], {}),
    "matmul": ([x2, gx.transpose(x2)], {}),
    "one_hot": ([labels, 10, "float32"], {}),
    "pad": ([x2, ((1, 1), (0, 2))], {"mode": "constant", "value": 1.0}),
    "parameter": (["name", (2, 3), 0.0, "float32"], {}),
    "reshape": ([x2, (6, -1)], {}),
    "split": ([x2, 2], {"axis": 1}),
    "stack": ([[x2, x2]], {"axis": 0}),
    "state": (["name", (2, 3), 0.0, "float32"], {}),
    "training_step": ([loss, gx.SGD(0.1)], {"target": "c", "threads": 1}),
    "where": ([truth, x2, x2], {}),
}  # fmt: skip
# The words of equations, which tests/error_cases covers, and what takes no value of a graph.
ELSEWHERE = {
    "argmax_over", "argmin_over", "axes", "axis", "define", "expanded_gradient", "formula",
    "indicator", "layer_scope", "max_over", "min_over", "op", "position", "prod_over", "sum_over",
}  # fmt: skip
GARBAGE: list[Any] = [
    None, "text", 2.5, -1, 0, 7, True, float("nan"), float("inf"), 1j, (), (1, 2), [1, 2], [[1], 2],
    (0, 0), (-1, -1), ("a", "b"), {"a": 1}, np.ones(3), np.ones((0, 3)), np.array(["a"]), object(),
    labels, truth, loss, six, gx.input("wide", (4, 6), "float64"), gx.input("deep", (1,) * 6),
    [x2, labels], [x2, 1],
]  # fmt: skip


def variations(name: str) -> Iterator[tuple[list[Any], dict[str, Any], Any]]:
    """The valid call of an op with each of its arguments, one at a time, replaced by garbage."""
    arguments, keywords = CALLS[name]
    for wrong in GARBAGE:
        for place in range(len(arguments)):
            yield [*arguments[:place], wrong, *arguments[place + 1 :]], keywords, wrong
        for key in keywords:
            yield arguments, {**keywords, key: wrong}, wrong


def test_every_public_op_is_here():
    functions = {n for n in gx.__all__ if callable(getattr(gx, n)) and n[0].islower()}
    assert functions - ELSEWHERE == set(CALLS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_garbage_is_refused_in_the_users_words(name, monkeypatch):
    monkeypatch.setattr("graphc.compiler.build_library", _unwanted)
    function = getattr(gx, name)
    arguments, keywords = CALLS[name]
    if name not in ("compile", "training_step"):
        function(*arguments, **keywords)
    failures = []
    for arguments, keywords, wrong in variations(name):
        try:
            function(*arguments, **keywords)
        except gx.UserError as error:
            assert str(error).startswith("test_bad_arguments.py:"), error
            assert max(map(len, str(error).splitlines())) < 160, error
            assert "sympy" not in str(error)
        except _Compiled:
            continue
        except Exception as error:
            failures.append(f"{name} with {brief(wrong)}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


class _Compiled(Exception):
    pass


def _unwanted(*_: object, **__: object) -> None:
    raise _Compiled
