"""Chains of rows are one kernel, in C and on the emulator, whatever the ops are called."""

import re
from pathlib import Path

import numpy as np
import pytest

from graphc.autodiff.backward import gradients
from graphc.compiler import compile_graph
from graphc.ir.graph import Assignment, Graph, Node
from graphc.ir.schedule import KernelPlan
from graphc.ops import elementwise, leaves, losses, normalization, reductions, shape
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.ops.leaves import constant
from graphc.passes.pipeline import run_passes
from graphc.passes.rows import MOST_COLUMNS
from graphc.schedule.plan import make_schedule
from tests.compiled import check
from tests.cuda.programs import check_on_emulator, compile_with_nvcc, generated

Feeds = dict[str, np.ndarray]


def plans(outputs: list[Node]) -> tuple[KernelPlan, ...]:
    return make_schedule(run_passes(Graph(tuple(outputs)))).kernels


def slope_of(out: Node, *inputs: Node, seed: int = 5) -> list[Node]:
    """Gradients of a weighted sum of an output."""
    weights = np.random.default_rng(seed).normal(size=out.shape)
    total = reductions.sum(out * constant(weights, out.dtype))
    return gradients(total, list(inputs))


def logits_and_labels(rows: int, classes: int) -> tuple[Node, Node, Feeds]:
    generator = np.random.default_rng(rows)
    z = leaves.input("z", (rows, classes), "float32")
    y = leaves.input("y", (rows,), "int64")
    feeds = {
        "z": generator.normal(size=z.shape, scale=5).astype("float32"),
        "y": generator.integers(0, classes, rows),
    }
    return z, y, feeds


@pytest.mark.parametrize(
    ("rows", "classes"), [(64, 1000), (7, 10), (1024, 37), (3, 5000), (33, 300)]
)
def test_cross_entropy_and_its_gradient_walk_a_row_in_one_kernel(rows: int, classes: int) -> None:
    z, y, feeds = logits_and_labels(rows, classes)
    loss = losses.cross_entropy(z, y)
    outputs = [loss, *gradients(loss, [z])]
    first, mean = plans(outputs)
    assert first.strategy == "rows"
    assert first.reason == f"{rows} rows of {classes}: max, sum, sum, 4 maps"
    assert mean.strategy == "nest"
    check(outputs, feeds)
    check_on_emulator(outputs, feeds)


def test_rows_hold_infinities_and_what_is_no_number() -> None:
    z, y, feeds = logits_and_labels(12, 100)
    feeds["z"][1, 7] = np.inf
    feeds["z"][2, :] = -np.inf
    feeds["z"][3, 99] = np.nan
    feeds["z"][4, 1:] = -np.inf
    outputs = [losses.softmax(z), losses.log_softmax(z), losses.cross_entropy(z, y)]
    check(outputs, feeds)
    check_on_emulator(outputs, feeds)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_softmax_forward_and_backward(dtype: str) -> None:
    x = leaves.input("x", (6, 4, 50), dtype)
    out = losses.softmax(x)
    forward, *_ = plans([out])
    assert forward.strategy == "rows" and len(plans([out])) == 1
    feeds = {"x": np.random.default_rng(1).normal(size=x.shape).astype(x.dtype.numpy)}
    outputs = [out, *slope_of(out, x), *slope_of(losses.log_softmax(x), x)]
    check(outputs, feeds)
    check_on_emulator(outputs, feeds)


@pytest.mark.parametrize(
    ("extents", "count"), [((40, 96), 1), ((3, 8, 5, 30), 2), ((2, 9, 700), 1)]
)
def test_layer_normalisation_is_one_kernel(extents: tuple[int, ...], count: int) -> None:
    x = leaves.input("x", extents, "float32")
    gamma, beta = (leaves.input(n, extents[-count:], "float32") for n in ("gamma", "beta"))
    out = normalization.layer_norm(x, gamma, beta, count)
    (forward,) = plans([out])
    columns = int(np.prod(extents[-count:]))
    rows = int(np.prod(extents)) // columns
    assert forward.strategy == "rows"
    assert forward.reason.startswith(f"{rows} rows of {columns}: sum, sum")
    generator = np.random.default_rng(2)
    feeds = {n.label: generator.normal(size=n.shape).astype("float32") for n in (x, gamma, beta)}
    outputs = [out, *slope_of(out, x, gamma, beta)]
    check(outputs, feeds)
    check_on_emulator(outputs, feeds)


@op
def row_total(values: Operand) -> Definition:
    """A name that nothing in graphc knows."""
    t, u = axes("t u")
    return define[t](sum_over[u](values[t, u] ** 2))


@op
def divided(values: Operand, totals: Operand) -> Definition:
    t, u = axes("t u")
    return define[t, u](values[t, u] / totals[t])


def test_equations_of_ones_own_are_chained_like_any_other() -> None:
    x = leaves.input("x", (20, 64), "float32")
    once = divided(x, row_total(x))
    out = divided(once, row_total(once))
    (plan,) = plans([out])
    assert plan.strategy == "rows"
    feeds = {"x": np.random.default_rng(3).normal(size=x.shape).astype("float32")}
    check([out, reductions.argmax(out, 1)], feeds)
    check_on_emulator([out, reductions.argmax(out, 1)], feeds)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nvcc_keeps_rows_in_registers(dtype: str, architecture: str, tmp_path: Path) -> None:
    x = leaves.input("x", (64, 1000), dtype)
    y = leaves.input("y", (64,), "int64")
    deep = leaves.input("deep", (8192, 300), dtype)
    gamma, beta = (leaves.input(name, (300,), dtype) for name in ("gamma", "beta"))
    loss = losses.cross_entropy(x, y)
    normal = normalization.layer_norm(deep, gamma, beta)
    outputs = [
        loss, *gradients(loss, [x]), losses.softmax(deep), *slope_of(losses.softmax(deep), deep),
        losses.log_softmax(x), normal, *slope_of(normal, deep, gamma, beta),
    ]  # fmt: skip
    said = compile_with_nvcc(generated(outputs), architecture, tmp_path)
    assert set(re.findall(r"(\d+) bytes stack frame", said)) == {"0"}
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}


def test_values_that_others_read_leave_the_kernel() -> None:
    x = leaves.input("x", (16, 40), "float32")
    shifted = elementwise.exp(x - reductions.max(x, 1, keepdims=True))
    total = reductions.sum(shifted, 1, keepdims=True)
    outputs = [shifted, total, shifted / total, reductions.sum(shifted / total, 0)]
    first, *_ = plans(outputs)
    assert first.strategy == "rows" and len(first.stored) == 3
    feeds = {"x": np.random.default_rng(4).normal(size=x.shape).astype("float32")}
    check(outputs, feeds)
    check_on_emulator(outputs, feeds)


def test_what_is_no_chain_of_rows_is_left_alone() -> None:
    wide = leaves.input("wide", (16, MOST_COLUMNS + 1), "float32")
    down = leaves.input("down", (64, 32), "float32")
    few = leaves.input("few", (20_000, 4), "float32")
    turned = leaves.input("turned", (24, 24), "float32")
    for outputs in (
        [losses.softmax(wide)],
        [losses.softmax(down, axis=0)],
        [losses.softmax(few)],
        [turned * shape.transpose(reductions.sum(turned, 1, keepdims=True))],
    ):
        assert all(plan.strategy == "nest" for plan in plans(outputs))


def test_what_an_assignment_takes_stays_in_its_own_kernel() -> None:
    """A parameter that is overwritten in place may not be read again by a later loop."""
    w = leaves.parameter("w", (16, 40), init=lambda shape, generator: generator.normal(size=shape))
    new = w - losses.softmax(w)
    start = np.random.default_rng(6).normal(size=w.shape).astype("float32")
    exponents = np.exp(start.astype("float64"))
    want = start - exponents / exponents.sum(1, keepdims=True)
    for target in ("c", "cuda-emu"):
        program = compile_graph(
            [reductions.sum(w)], assignments=[Assignment(w, new)], target=target,
            parameters={"w": start.copy()},
        )  # fmt: skip
        program()
        np.testing.assert_allclose(np.asarray(program.parameters["w"]), want, rtol=1e-6, atol=1e-6)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    z, y, feeds = logits_and_labels(200, 301)
    loss = losses.cross_entropy(z, y)
    outputs = [loss, *gradients(loss, [z])]
    one, *others = [compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3, 4)]
    for other in others:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
