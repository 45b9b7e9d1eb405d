"""Every op with shapes, a domain and its counterpart in PyTorch, as data: an oracle test and each
backend's test loop over the same list. A case builds a graph; nothing here runs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir.graph import Node
from graphc.ops import activations as act
from graphc.ops import compare as cmp
from graphc.ops import elementwise as ew
from graphc.ops import leaves, linear, reductions, shape

try:
    import torch
except ImportError:  # the counterparts below are then not called
    torch = None  # type: ignore[assignment]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OpCase:
    """One op at one set of shapes.

    Values are uniform in ``domain`` and stay ``margin`` away from each of ``kinks``, so that finite
    differences see one branch; ``distinct`` makes them differ by much more than the step of a
    finite difference. ``integers`` gives operands that are int64 in a range instead.
    """

    name: str
    shapes: tuple[Shape, ...]
    build: Callable[..., Node]
    torch: Callable[..., Any] | None = None
    domain: tuple[float, float] = (-2.0, 2.0)
    kinks: tuple[float, ...] = ()
    distinct: bool = False
    integers: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    differentiable: bool = True
    margin: float = 0.02

    def inputs(self, dtype: str = "float64") -> list[Node]:
        """An input node for each shape."""
        return [
            leaves.input(f"x{n}", shape, "int64" if n in self.integers else dtype)
            for n, shape in enumerate(self.shapes)
        ]

    def sample(self, generator: np.random.Generator, dtype: str = "float64") -> list[np.ndarray]:
        """Arrays for the inputs."""
        return [self._array(n, generator).astype(dtype if n not in self.integers else "int64")
                for n in range(len(self.shapes))]  # fmt: skip

    def _array(self, number: int, generator: np.random.Generator) -> np.ndarray:
        extents = self.shapes[number]
        if number in self.integers:
            return generator.integers(*self.integers[number], size=extents)
        low, high = self.domain
        if self.distinct:
            count = math.prod(extents)
            return generator.permutation(np.linspace(low, high, count)).reshape(extents)
        value = generator.uniform(low, high, extents)
        for kink in self.kinks:
            near = np.abs(value - kink) < self.margin
            value = np.where(near, kink + np.where(value < kink, -1, 1) * self.margin, value)
        return value


def unary(name: str, build: Callable[..., Node], torch: Callable[..., Any], **more: Any) -> OpCase:
    return OpCase(name, ((3, 5),), build, torch, **more)


ARITHMETIC = [
    OpCase("add", ((3, 4), (3, 4)), ew.add, lambda a, b: a + b),
    OpCase("add_row", ((3, 4), (4,)), ew.add, lambda a, b: a + b),
    OpCase("add_scalar_value", ((3, 4), ()), ew.add, lambda a, b: a + b),
    OpCase("add_both_stretched", ((3, 1, 5), (4, 1)), ew.add, lambda a, b: a + b),
    OpCase("subtract", ((2, 3, 4), (1, 4)), ew.subtract, lambda a, b: a - b),
    OpCase("subtract_from_number", ((3, 4),), lambda a: 1.5 - a, lambda a: 1.5 - a),
    OpCase("multiply", ((3, 4), (3, 1)), ew.multiply, lambda a, b: a * b),
    OpCase("multiply_number", ((3, 4),), lambda a: a * 0.1, lambda a: a * 0.1),
    OpCase("multiply_itself", ((3, 4),), lambda a: a * a, lambda a: a * a),
    OpCase("divide", ((3, 4), (4,)), ew.divide, lambda a, b: a / b, domain=(0.5, 2)),
    OpCase("divide_number", ((3, 4),), lambda a: a / 3, lambda a: a / 3),
    OpCase("power", ((3, 4), (3, 4)), ew.power, lambda a, b: a**b, domain=(0.3, 2)),
    OpCase("power_cube", ((3, 4),), lambda a: a**3, lambda a: a**3),
    OpCase("power_fraction", ((3, 4),), lambda a: a**-1.7, lambda a: a**-1.7, domain=(0.3, 2)),
    OpCase("power_of_number", ((3, 4),), lambda a: 2**a, lambda a: 2**a),
    OpCase("negative", ((3, 4),), lambda a: -a, lambda a: -a),
    OpCase(
        "maximum", ((3, 40), (40,)), ew.maximum, lambda a, b: torch.maximum(a, b), distinct=True
    ),
    OpCase(
        "minimum", ((3, 40), (40,)), ew.minimum, lambda a, b: torch.minimum(a, b), distinct=True
    ),
    OpCase(
        "where",
        ((3, 4), (4,), (3, 1)),
        lambda c, a, b: cmp.where(c > 0, a, b),
        lambda c, a, b: torch.where(c > 0, a, b),
        kinks=(0,),
    ),
    OpCase(
        "where_number",
        ((3, 4),),
        lambda a: cmp.where(cmp.logical_and(a > -1, a <= 1), a, 0.5),
        lambda a: torch.where((a > -1) & (a <= 1), a, torch.tensor(0.5, dtype=a.dtype)),
        kinks=(-1, 1),
    ),
]  # fmt: skip

FUNCTIONS = [
    unary("exp", ew.exp, lambda x: x.exp()),
    unary("log", ew.log, lambda x: x.log(), domain=(0.2, 3)),
    unary("sqrt", ew.sqrt, lambda x: x.sqrt(), domain=(0.2, 3)),
    unary("square", ew.square, lambda x: x**2),
    unary("reciprocal", ew.reciprocal, lambda x: 1 / x, domain=(0.2, 3)),
    unary("abs", ew.abs, lambda x: x.abs(), kinks=(0,)),
    unary("sign", ew.sign, lambda x: x.sign(), kinks=(0,)),
    unary("sin", ew.sin, lambda x: x.sin()),
    unary("cos", ew.cos, lambda x: x.cos()),
    unary("erf", ew.erf, lambda x: torch.erf(x)),
    unary("clip", lambda x: ew.clip(x, -0.5, 1), lambda x: x.clip(-0.5, 1), kinks=(-0.5, 1)),
    unary("cast_there_and_back", lambda x: ew.cast(ew.cast(x, "float64"), "float64"), lambda x: x),
    unary("stop_gradient", lambda x: x * ew.stop_gradient(x), lambda x: x * x.detach()),
    unary("relu", act.relu, lambda x: x.relu(), kinks=(0,)),
    unary("sigmoid", act.sigmoid, lambda x: x.sigmoid()),
    unary("sigmoid_far", act.sigmoid, lambda x: x.sigmoid(), domain=(-800, 800)),
    unary("tanh", act.tanh, lambda x: x.tanh()),
    unary("silu", act.silu, lambda x: torch.nn.functional.silu(x)),
    unary("softplus", act.softplus, lambda x: torch.nn.functional.softplus(x)),
    unary(
        "leaky_relu",
        lambda x: act.leaky_relu(x, 0.2),
        lambda x: torch.nn.functional.leaky_relu(x, 0.2),
        kinks=(0,),
    ),
    unary("elu", lambda x: act.elu(x, 0.7), lambda x: torch.nn.functional.elu(x, 0.7), kinks=(0,)),
    unary("gelu", act.gelu, lambda x: torch.nn.functional.gelu(x)),
    unary(
        "gelu_tanh",
        lambda x: act.gelu(x, "tanh"),
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    ),
]


CONDITIONS = [
    OpCase(
        name,
        ((3, 4), (4,)),
        build,
        counterpart,
        domain=(-1, 1),
        integers={0: (0, 3), 1: (0, 3)},
        differentiable=False,
    )
    for name, build, counterpart in [
        ("less", lambda a, b: a < b, lambda a, b: a < b),
        ("less_equal", lambda a, b: a <= b, lambda a, b: a <= b),
        ("greater", lambda a, b: a > b, lambda a, b: a > b),
        ("greater_equal", lambda a, b: a >= b, lambda a, b: a >= b),
        ("equal", cmp.equal, lambda a, b: a == b),
        ("not_equal", cmp.not_equal, lambda a, b: a != b),
        (
            "logic",
            lambda a, b: cmp.logical_or(cmp.logical_not(a > 0), cmp.logical_and(a < 2, b > 1)),
            lambda a, b: ~(a > 0) | ((a < 2) & (b > 1)),
        ),
        ("integer_arithmetic", lambda a, b: a * b + 2 * a - b, lambda a, b: a * b + 2 * a - b),
    ]
]

REDUCTIONS = [
    OpCase("sum", ((3, 4, 2),), reductions.sum, lambda x: x.sum()),
    OpCase("sum_axis", ((3, 4, 2),), lambda x: reductions.sum(x, 1), lambda x: x.sum(1)),
    OpCase(
        "sum_axes_kept",
        ((3, 4, 2),),
        lambda x: reductions.sum(x, (0, -1), keepdims=True),
        lambda x: x.sum((0, 2), keepdim=True),
    ),
    OpCase("sum_unit_axis", ((3, 1),), lambda x: reductions.sum(x, 1), lambda x: x.sum(1)),
    OpCase("mean", ((3, 4, 2),), reductions.mean, lambda x: x.mean()),
    OpCase("mean_axes", ((3, 4, 2),), lambda x: reductions.mean(x, (1, 2)),
           lambda x: x.mean((1, 2))),
    OpCase("max", ((3, 4, 2),), reductions.max, lambda x: x.max(), distinct=True),
    OpCase("max_axes", ((3, 4, 5),), lambda x: reductions.max(x, (0, 2)),
           lambda x: x.amax((0, 2)), distinct=True),
    OpCase("max_kept", ((3, 4, 5),), lambda x: reductions.max(x, -1, keepdims=True),
           lambda x: x.amax(-1, keepdim=True), distinct=True),
    OpCase("min", ((3, 4, 2),), lambda x: reductions.min(x, 1), lambda x: x.amin(1),
           distinct=True),
    OpCase("prod", ((3, 4),), lambda x: reductions.prod(x, 1), lambda x: x.prod(1)),
    OpCase("prod_all", ((2, 3),), reductions.prod, lambda x: x.prod()),
    OpCase("logsumexp", ((3, 4),), lambda x: reductions.logsumexp(x, 1),
           lambda x: x.logsumexp(1), domain=(-30, 30)),
    OpCase("logsumexp_all", ((3, 4),), reductions.logsumexp, lambda x: x.logsumexp((0, 1))),
    OpCase("logsumexp_huge", ((3, 4),), lambda x: reductions.logsumexp(x, 0, keepdims=True),
           lambda x: x.logsumexp(0, keepdim=True), domain=(995, 1005)),
    OpCase("variance", ((3, 4, 2),), lambda x: reductions.variance(x, (0, 2)),
           lambda x: x.var((0, 2), correction=0)),
    OpCase("variance_corrected", ((3, 4),),
           lambda x: reductions.variance(x, 1, keepdims=True, correction=1),
           lambda x: x.var(1, correction=1, keepdim=True)),
    OpCase("argmax", ((3, 4, 5),), lambda x: reductions.argmax(x, 1), lambda x: x.argmax(1),
           differentiable=False),
    OpCase("argmax_all", ((3, 4),), reductions.argmax, lambda x: x.argmax(), differentiable=False),
    OpCase("argmin_kept", ((3, 4),), lambda x: reductions.argmin(x, 0, keepdims=True),
           lambda x: x.argmin(0, keepdim=True), differentiable=False),
    OpCase("sum_of_bool", ((3, 4),), lambda x: reductions.sum(x > 0, 1), lambda x: (x > 0).sum(1),
           differentiable=False),
]  # fmt: skip


def einsum(subscripts: str, *shapes: Shape) -> OpCase:
    return OpCase(
        f"einsum_{subscripts}",
        shapes,
        lambda *nodes: linear.einsum(subscripts, *nodes),
        lambda *tensors: torch.einsum(subscripts, *tensors),
    )


def matmul(name: str, *shapes: Shape) -> OpCase:
    return OpCase(f"matmul_{name}", shapes, lambda a, b: a @ b, lambda a, b: a @ b)


LINEAR = [
    matmul("matrices", (3, 4), (4, 5)),
    matmul("dot", (4,), (4,)),
    matmul("row", (4,), (4, 5)),
    matmul("column", (3, 4), (4,)),
    matmul("batch", (2, 3, 4), (2, 4, 5)),
    matmul("batch_broadcast", (2, 1, 3, 4), (6, 4, 5)),
    matmul("shared_right", (2, 3, 4), (4, 5)),
    matmul("row_by_batch", (4,), (2, 4, 5)),
    OpCase("matmul_itself", ((4, 4),), lambda a: a @ a, lambda a: a @ a),
    OpCase(
        "gram",
        ((3, 4),),
        lambda a: a @ shape.transpose(a),
        lambda a: a @ a.T,
    ),
    OpCase("dense", ((5, 3), (4, 3), (4,)), linear.dense,
           lambda x, w, b: torch.nn.functional.linear(x, w, b)),
    OpCase("dense_batches", ((2, 5, 3), (4, 3)), linear.dense,
           lambda x, w: torch.nn.functional.linear(x, w)),
    einsum("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    einsum("ij->ji", (3, 4)),
    einsum("ii->i", (4, 4)),
    einsum("ii", (4, 4)),
    einsum("iij->j", (3, 3, 2)),
    einsum("i,j->ij", (3,), (4,)),
    einsum("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    einsum("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    einsum("ij,ij->", (3, 4), (3, 4)),
    einsum("ij,k->i", (3, 4), (5,)),
]  # fmt: skip

SHAPES = [
    OpCase(
        "reshape_merge",
        ((2, 3, 4, 5),),
        lambda x: shape.reshape(x, (2, 60)),
        lambda x: x.reshape(2, 60),
    ),
    OpCase(
        "reshape_cut",
        ((2, 12),),
        lambda x: shape.reshape(x, (2, 3, -1)),
        lambda x: x.reshape(2, 3, 4),
    ),
    OpCase(
        "reshape_across",
        ((4, 6),),
        lambda x: shape.reshape(x, (8, 3)),
        lambda x: x.reshape(8, 3),
    ),
    OpCase(
        "reshape_back_across",
        ((8, 3),),
        lambda x: shape.reshape(x, (4, 6)),
        lambda x: x.reshape(4, 6),
    ),
    OpCase(
        "reshape_coprime",
        ((5, 6),),
        lambda x: shape.reshape(x, (3, 10)),
        lambda x: x.reshape(3, 10),
    ),
    OpCase(
        "reshape_three",
        ((2, 3, 4),),
        lambda x: shape.reshape(x, (4, 6)),
        lambda x: x.reshape(4, 6),
    ),
    OpCase("reshape_to_scalar", ((1, 1),), lambda x: shape.reshape(x, ()), lambda x: x.reshape(())),
    OpCase("flatten", ((2, 3, 4),), shape.flatten, lambda x: x.flatten(1)),
    OpCase("transpose", ((2, 3, 4),), shape.transpose, lambda x: x.permute(2, 1, 0)),
    OpCase(
        "transpose_axes",
        ((2, 3, 4),),
        lambda x: shape.transpose(x, (1, -1, 0)),
        lambda x: x.permute(1, 2, 0),
    ),
    OpCase("slice", ((5, 6),), lambda x: x[1:4, -3:], lambda x: x[1:4, -3:]),
    OpCase("slice_step", ((7, 6),), lambda x: x[1::3, ::2], lambda x: x[1::3, ::2]),
    OpCase("slice_integer", ((5, 6, 3),), lambda x: x[2, ..., -1], lambda x: x[2, ..., -1]),
    OpCase("slice_new", ((5, 6),), lambda x: x[None, 1, :, None], lambda x: x[None, 1, :, None]),
    OpCase("slice_all_integers", ((5, 6),), lambda x: x[2, 3], lambda x: x[2, 3]),
    OpCase(
        "concat",
        ((2, 3), (2, 1), (2, 4)),
        lambda *x: shape.concat(x, 1),
        lambda *x: torch.cat(x, 1),
    ),
    OpCase(
        "concat_itself",
        ((2, 3),),
        lambda x: shape.concat([x, x * 2.0, x]),
        lambda x: torch.cat([x, x * 2, x]),
    ),
    OpCase(
        "stack",
        ((2, 3), (2, 3)),
        lambda *x: shape.stack(x, -1),
        lambda *x: torch.stack(x, -1),
    ),
    OpCase(
        "split",
        ((2, 7),),
        lambda x: shape.split(x, (3, 4), 1)[1],
        lambda x: torch.split(x, (3, 4), 1)[1],
    ),
    OpCase(
        "broadcast_to",
        ((3, 1),),
        lambda x: shape.broadcast_to(x, (2, 3, 4)),
        lambda x: x.expand(2, 3, 4),
    ),
    OpCase("expand_dims", ((2, 3),), lambda x: shape.expand_dims(x, 1), lambda x: x.unsqueeze(1)),
    OpCase("squeeze", ((2, 1, 3, 1),), shape.squeeze, lambda x: x.squeeze()),
    OpCase("squeeze_one", ((2, 1, 1),), lambda x: shape.squeeze(x, 1), lambda x: x.squeeze(1)),
    OpCase("flip", ((2, 3, 4),), lambda x: shape.flip(x, (0, -1)), lambda x: x.flip(0, 2)),
    OpCase(
        "views_chained",
        ((4, 6),),
        lambda x: shape.reshape(shape.transpose(shape.reshape(x, (2, 2, 6))[:, 1]), (3, 4)),
        lambda x: x.reshape(2, 2, 6)[:, 1].T.reshape(3, 4),
    ),
]

CASES: list[OpCase] = [*ARITHMETIC, *FUNCTIONS, *CONDITIONS, *REDUCTIONS, *LINEAR, *SHAPES]
