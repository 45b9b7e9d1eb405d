"""Every op and its gradients in C, in every floating type, against the oracle."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from graphc.ir.graph import Node
from graphc.ir.loops import Contraction
from graphc.ops import elementwise, leaves, linear, reductions, shape
from graphc.ops.convolution import conv2d
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from tests.compiled import check, with_gradients
from tests.op_cases import CASES as PLAIN_CASES
from tests.op_cases import OpCase
from tests.op_cases_nn import NN_CASES

CASES = [*PLAIN_CASES, *NN_CASES]
BATCH = 16  # cases in one program: one compilation instead of many
Feeds = dict[str, np.ndarray]


def batches(items: Sequence, size: int = BATCH) -> list[list]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def case_outputs(
    case: OpCase, dtype: str, generator: np.random.Generator
) -> tuple[list[Node], Feeds]:
    """Forward value and gradients of a case whose inputs are named after it."""
    arrays = case.sample(generator, dtype)
    inputs = [
        leaves.input(f"{case.name} {n}", array.shape, str(array.dtype))
        for n, array in enumerate(arrays)
    ]
    out = case.build(*inputs)
    outputs = with_gradients(out, inputs, generator) if case.differentiable else [out]
    return outputs, {node.label: array for node, array in zip(inputs, arrays, strict=True)}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cases", batches(CASES), ids=lambda cases: f"{cases[0].name}-and-on")
def test_every_op_and_gradient(
    cases: list[OpCase], dtype: str, seeded: np.random.Generator
) -> None:
    outputs, feeds, names = [], {}, []
    for case in cases:
        found, arrays = case_outputs(case, dtype, seeded)
        outputs += found
        feeds |= arrays
        names += [f"{case.name}, {dtype}, output {n}" for n in range(len(found))]
    check(outputs, feeds, names)


def small_convolution(stride: int, dilation: int, padding: int, groups: int) -> OpCase:
    name = f"conv s{stride} d{dilation} p{padding} g{groups}"
    settings = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    return OpCase(
        name, ((2, 4, 7, 9), (8, 4 // groups, 3, 3)), lambda x, w: conv2d(x, w, **settings)
    )


def test_convolution_grid(seeded: np.random.Generator) -> None:
    grid = itertools.product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2, 4))
    strategies = set()
    for cases in batches([small_convolution(*point) for point in grid], 27):
        outputs, feeds = [], {}
        for case in cases:
            found, arrays = case_outputs(case, "float64", seeded)
            outputs += found
            feeds |= arrays
        program = check(outputs, feeds)
        strategies |= {kernel.strategy.partition(":")[0] for kernel in program.kernels.values()}
    assert strategies == {"contraction", "nest"}


# Rows, depth, columns around multiples of the register block, and a depth of several blocks.
PRODUCTS = [
    (1, 5, 9), (4, 4, 8), (5, 7, 9), (9, 13, 33), (17, 769, 31), (8, 1600, 16), (33, 2, 64),
    (7, 768, 1), (512, 4, 40), (515, 5, 65), (3, 4, 8), (4, 3, 8), (4, 4, 7), (64, 1000, 97),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_matrix_products(dtype: str, seeded: np.random.Generator) -> None:
    outputs, feeds = [], {}
    for rows, depth, columns in PRODUCTS:
        for turned in itertools.product((False, True), repeat=2):
            name = f"{rows} {depth} {columns} {turned}"
            shapes = [(rows, depth), (depth, columns)]
            sides = []
            for letter, extents, turn in zip("ab", shapes, turned, strict=True):
                stored = extents[::-1] if turn else extents
                side = leaves.input(f"{letter} {name}", stored, dtype)
                feeds[side.label] = seeded.normal(size=stored).astype(dtype)
                sides.append(shape.transpose(side) if turn else side)
            outputs.append(linear.matmul(*sides))
    program = check(outputs, feeds)
    kinds = [kernel.strategy.partition(":")[0] for kernel in program.kernels.values()]
    assert kinds.count("contraction") >= 4 * 8


EINSUMS = [
    ("abcij,abcjk->abcik", (2, 3, 2, 5, 6), (2, 3, 2, 6, 9)),  # many batch axes
    ("abij,bajk->ikab", (2, 3, 8, 6), (3, 2, 6, 9)),  # batch axes last: short last axes
    ("ijk,kl->ijl", (5, 6, 7), (7, 3)),  # a short last axis of N
    ("ia,ja->ij", (9, 12), (17, 12)),  # both walk along the depth
    ("ai,aj->ij", (12, 9), (12, 17)),  # neither does
    ("ijab,klab->ikjl", (3, 4, 2, 5), (3, 5, 2, 5)),  # rows and columns interleave in the result
    ("aibj,ak->kibj", (6, 2, 3, 8), (6, 5)),  # columns in three axes, no depth between
    ("ij,jk->ki", (20, 6), (6, 9)),  # transposed result
    ("iaj,ajk->ik", (9, 1, 8), (1, 8, 17)),  # axes of one element
    ("abc,abc,cd->abd", (4, 5, 6), (4, 5, 6), (6, 9)),  # a factor of two reads
    ("ab,b,bc,c->ac", (6, 7), (7,), (7, 9), (9,)),  # both factors of two reads
]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_einsums_and_gradients(dtype: str, seeded: np.random.Generator) -> None:
    outputs, feeds = [], {}
    for text, *shapes in EINSUMS:
        inputs = [leaves.input(f"{text} {n}", s, dtype) for n, s in enumerate(shapes)]
        outputs += with_gradients(linear.einsum(text, *inputs), inputs, seeded)
        feeds |= {node.label: seeded.normal(size=node.shape).astype(dtype) for node in inputs}
    check(outputs, feeds)


@op
def gated(x: Operand, g: Operand, w: Operand, s: Operand) -> Definition:
    """out[n,k,i] = sum over c, r of x[n,c,i+r]*g[n,c]**2 * w[k,c,r]/s[k]: factors of two reads."""
    n, k, i, c, r = axes("n k i c r")
    left, right = x[n, c, i + r] * g[n, c] ** 2, w[k, c, r] / s[k]
    return define[n, k, i](sum_over[c, r](left * right))


def test_factors_with_several_reads(seeded: np.random.Generator) -> None:
    shapes = {"x": (3, 5, 20), "g": (3, 5), "w": (7, 5, 3), "s": (7,)}
    inputs = [leaves.input(name, extents, "float64") for name, extents in shapes.items()]
    feeds = {name: seeded.uniform(0.5, 2, size=extents) for name, extents in shapes.items()}
    program = check(with_gradients(gated(*inputs), inputs, seeded), feeds)
    assert program.kernels["gated_forward"].strategy.startswith("contraction")


def test_reductions_over_one_window_stay_apart(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (6, 40), "float64")
    outputs = [
        reductions.sum(x, 1), reductions.sum(elementwise.square(x), 1),
        reductions.sum(elementwise.exp(x), 1), reductions.max(x, 1), reductions.argmax(x, 1),
        reductions.min(x, 1), reductions.prod(x, 1), reductions.mean(x, 1),
    ]  # fmt: skip
    check(outputs, {"x": seeded.normal(size=(6, 40))})


def test_not_a_number_in_extrema() -> None:
    x = leaves.input("x", (4, 5), "float64")
    value = np.arange(20.0).reshape(4, 5)
    value[1, 2] = value[2, 1] = value[2, 3] = np.nan
    value[3] = -np.inf
    outputs = [f(x, 1) for f in (reductions.max, reductions.min)]
    outputs += [f(x, 1) for f in (reductions.argmax, reductions.argmin)]
    check(outputs, {"x": value})


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_integer_products(dtype: str, seeded: np.random.Generator) -> None:
    a, b = leaves.input("a", (9, 20), dtype), leaves.input("b", (20, 33), dtype)
    arrays = [seeded.integers(0, 4, size=node.shape).astype(dtype) for node in (a, b)]
    check([linear.matmul(a, b)], dict(zip("ab", arrays, strict=True)))


def test_long_reductions_in_pieces(seeded: np.random.Generator) -> None:
    """Sums that are cut for the cores: one result, a prime length, and a deep small product."""
    x = leaves.input("x", (100_003,), "float64")
    a, b = leaves.input("a", (64, 40, 300), "float64"), leaves.input("b", (64, 40, 300), "float64")
    outputs = [reductions.sum(x * x), reductions.mean(x), linear.einsum("nir,njr->ij", a, b)]
    arrays = {node.label: seeded.normal(size=node.shape) for node in (x, a, b)}
    program = check(outputs, arrays)
    assert any("partial" in name for name in program.kernels)
    assert any(isinstance(r.body, Contraction) and r.body.pieces > 1 for r in program.routines)


def test_large_arrays_use_parallel_loops(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (3, 130, 70), "float32")
    y = elementwise.exp(shape.transpose(x, (2, 0, 1))) + 1.0
    array = seeded.normal(size=x.shape).astype("float32")
    program = check([y, reductions.max(x, (0, 2)), reductions.sum(x, 0)], {"x": array})
    assert any("omp parallel" in kernel.source for kernel in program.kernels.values())
