"""Gradients of pools that no array holds: values are put in place as patches are read."""

from collections.abc import Callable

import numpy as np
import pytest

from graphc.autodiff.backward import gradients
from graphc.backends.base import Program
from graphc.backends.c.mapping import BLOCKS
from graphc.compiler import compile_graph
from graphc.ir.graph import Graph, Node
from graphc.ops import activations, elementwise, leaves, linear, pooling, reductions, shape
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.pooling import max_pool2d
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from graphc.tune.kernel import alone
from graphc.tune.variants import Space
from tests.compiled import check

Feeds = dict[str, np.ndarray]
Pool = Callable[[Node], Node]


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays and convolutions too."""
    monkeypatch.setattr("graphc.schedule.choose._ADVANTAGE", 0.0)
    monkeypatch.setattr("graphc.schedule.scatters.LEAST_BYTES", 0)


def two_layers(
    pool: Pool, image: tuple[int, ...] = (2, 16, 16, 16), dtype: str = "float32", *,
    relu: bool = True, flat: bool = False,
) -> tuple[list[Node], Feeds]:  # fmt: skip
    """Gradients for both filters of two convolutions, the second with a pool behind it."""
    generator, rank = np.random.default_rng(3), len(image) - 2
    convolve = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    x = leaves.input("x", image, dtype)
    v = leaves.input("v", (16, image[1], *(3,) * rank), dtype)
    w = leaves.input("w", (32, 16, *(3,) * rank), dtype)
    hidden = activations.tanh(convolve(x, v, padding=1))
    y = convolve(hidden, w, padding=1)
    y = pool(activations.relu(y) if relu else y)
    inputs = [x, v, w]
    if flat:
        y = shape.reshape(y, (image[0], -1))
        m = leaves.input("m", (y.shape[1], 5), dtype)
        y, inputs = linear.matmul(y, m), [*inputs, m]
    loss = reductions.sum(elementwise.square(activations.tanh(y)))
    feeds = {
        n.label: (generator.normal(size=n.shape) / n.shape[-1]).astype(n.dtype.numpy)
        for n in inputs
    }
    return gradients(loss, [v, w]), feeds


def scattering(program: Program) -> list[str]:
    """The kernels that put values in place as they read."""
    return [name for name, k in program.kernels.items() if "and places instead of" in k.strategy]


PUT_IN_PLACE: list[tuple[str, Pool, tuple[int, ...]]] = [
    ("2x2", lambda x: max_pool2d(x, 2), (2, 16, 16, 16)),
    ("rows in no window", lambda x: max_pool2d(x, 2), (3, 16, 15, 13)),
    ("4x2", lambda x: max_pool2d(x, (4, 2)), (2, 16, 16, 18)),
    ("3x3", lambda x: max_pool2d(x, 3), (2, 16, 18, 14)),
    ("one dimension", lambda x: max_pool2d(x, (1, 2)), (2, 16, 14, 13)),
    ("a line", lambda x: pooling.max_pool1d(x, 4), (3, 16, 39)),
    ("a cube", lambda x: pooling.max_pool3d(x, 2), (1, 16, 8, 8, 9)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "pool", "image"), PUT_IN_PLACE, ids=[case[0] for case in PUT_IN_PLACE]
)
def test_values_put_in_place(
    name: str, pool: Pool, image: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, feeds = two_layers(pool, image, dtype)
    program = check(outputs, feeds, [name] * 2)
    assert len(scattering(program)) == 2, [k.strategy for k in program.kernels.values()]
    monkeypatch.setattr("graphc.schedule.scatters.LEAST_BYTES", 1 << 40)
    apart = compile_graph(outputs)
    assert scattering(apart) == []
    assert len(apart.kernels) == len(program.kernels) + 1
    assert program.schedule.arena_bytes < apart.schedule.arena_bytes
    for ours, theirs in zip(program(**feeds), apart(**feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("relu", [True, False])
def test_lanes_that_are_no_neighbours(relu: bool) -> None:
    """Behind a reshape the values of a window lie in the order of the dense layer."""
    outputs, feeds = two_layers(lambda x: max_pool2d(x, 2), dtype="float64", relu=relu, flat=True)
    program = check(outputs, feeds)
    assert len(scattering(program)) == 2
    texts = [program.kernels[name].source for name in scattering(program)]
    assert relu or all("own[lane] = values[" in text for text in texts)


APART: list[tuple[str, Pool]] = [
    ("windows cross tiles", lambda x: max_pool2d(x, 7)),
    ("windows overlap", lambda x: max_pool2d(x, 3, stride=2)),
    ("padding", lambda x: max_pool2d(x, 2, padding=1)),
]


@pytest.mark.parametrize(("name", "pool"), APART, ids=[case[0] for case in APART])
def test_other_windows_are_stored(name: str, pool: Pool) -> None:
    outputs, feeds = two_layers(pool)
    assert scattering(check(outputs, feeds, [name] * 2)) == []


def test_what_others_read_is_stored() -> None:
    """An output, a sum of squares beside the products, a type of 16 bits, and plain sums."""
    x, w = leaves.input("x", (2, 16, 12, 12)), leaves.input("w", (16, 16, 3, 3))
    y = conv2d(x, w, padding=1)
    loss = reductions.sum(elementwise.square(max_pool2d(y, 2)))
    dy, dw = gradients(loss, [y, w])
    generator = np.random.default_rng(0)
    feeds = {n.label: generator.normal(size=n.shape).astype("f4") for n in (x, w)}
    assert scattering(check([dw], feeds)) == ["d_w"]
    assert scattering(check([dw, dy], feeds)) == []
    assert scattering(check([dw, reductions.sum(elementwise.square(dy))], feeds)) == []
    assert scattering(compile_graph([dw], exact=True)) == []
    assert scattering(compile_graph([dw], precision="bf16")) == []


def test_threads_do_not_change_a_bit() -> None:
    outputs, feeds = two_layers(lambda x: max_pool2d(x, 2), (3, 16, 22, 26))
    first, *others = (compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3, 4))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_tuning_keeps_windows_within_tiles() -> None:
    """Tiles of 2 begin between windows of 4, and plain sums read arrays."""
    outputs, _ = two_layers(lambda x: max_pool2d(x, (2, 4)))
    block = BLOCKS["avx2"]
    schedule = make_schedule(run_passes(Graph(tuple(outputs))), block)
    plans = [plan for plan in schedule.kernels if plan.scattered]
    assert len(plans) == 2
    for plan in plans:
        space = Space(alone(plan, schedule), block, False)
        found = [space.default, *space.proposals(space.default, 0)]
        tried = {tuple(a.outputs for a in c.variant.algorithms) for c in found}
        assert tried == {(6, 4), (4, 4), (2, 4)}
