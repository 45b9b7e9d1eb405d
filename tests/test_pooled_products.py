"""Windows reduced in the kernel of the convolution before them: fused or not, the same values."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from graphc.backends.base import Program
from graphc.backends.c.mapping import BLOCKS
from graphc.compiler import compile_graph
from graphc.ir.graph import Graph, Node
from graphc.ops import activations, elementwise, leaves, pooling
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.define import argmax_over, argmin_over, axes, axis, define, max_over, min_over, op
from graphc.ops.pooling import lp_pool2d, max_pool2d, mean_pool2d
from graphc.passes.pipeline import run_passes
from graphc.passes.windows import window_sizes
from graphc.schedule.plan import make_schedule
from graphc.schedule.products import Products
from graphc.tune.kernel import alone
from graphc.tune.variants import Space
from tests.compiled import check, with_gradients

Feeds = dict[str, np.ndarray]
Pool = Callable[[Node], Node]


@pytest.fixture(autouse=True)
def _tiles_always_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small convolutions too: the cost model would leave some of them alone."""
    monkeypatch.setattr("graphc.schedule.choose._ADVANTAGE", 0.0)


def layer(
    pool: Pool, image: tuple[int, ...] = (2, 16, 16, 16), dtype: str = "float32"
) -> tuple[list[Node], list[Node]]:
    """A pool of relu(conv(x, w, b)) with the gradients for x, w and b, and these."""
    rank = len(image) - 2
    convolve = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    x, b = leaves.input("x", image, dtype), leaves.input("b", (16,), dtype)
    w = leaves.input("w", (16, image[1], *(3,) * rank), dtype)
    out = pool(activations.relu(convolve(activations.tanh(x), w, b, padding=1)))
    return with_gradients(out, [x, w, b], np.random.default_rng(1)), [x, w, b]


def fed(generator: np.random.Generator, nodes: Sequence[Node]) -> Feeds:
    """Half of the pooled values are 0, so that windows have ties."""
    return {
        n.label: (generator.normal(size=n.shape) / n.shape[-1]).astype(n.dtype.numpy) for n in nodes
    }


def forward(program: Program) -> str:
    """How the convolution is computed."""
    return program.kernels["convolution_forward"].strategy


def buffers(program: Program) -> set[str]:
    return {buffer.name for buffer in program.schedule.buffers}


FUSED: list[tuple[str, Pool, tuple[int, ...]]] = [
    ("max 2x2", lambda x: max_pool2d(x, 2), (2, 16, 16, 16)),
    ("several channel blocks", lambda x: max_pool2d(x, 2), (2, 32, 8, 12)),
    ("max 4x2", lambda x: max_pool2d(x, (4, 2)), (2, 16, 16, 16)),
    ("max 1x4", lambda x: max_pool2d(x, (1, 4)), (2, 16, 15, 16)),
    ("last rows in no window", lambda x: max_pool2d(x, 2), (3, 16, 15, 13)),
    ("most of a tile overhangs", lambda x: max_pool2d(x, 4), (2, 16, 17, 18)),
    ("windows of 3", lambda x: max_pool2d(x, 3), (2, 16, 18, 13)),
    ("mean", lambda x: mean_pool2d(x, 2), (2, 16, 14, 16)),
    ("power mean, then its root", lambda x: lp_pool2d(x + 1.0, 2), (2, 16, 8, 8)),
    ("maps of windows", lambda x: activations.tanh(max_pool2d(x, 2) * 2.0), (2, 16, 12, 12)),
    ("a line", lambda x: pooling.max_pool1d(x, 2), (3, 16, 37)),
    ("a cube", lambda x: pooling.max_pool3d(x, 2), (1, 16, 6, 8, 9)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("name", "pool", "image"), FUSED, ids=[f[0] for f in FUSED])
def test_windows_within_tiles(
    name: str, pool: Pool, image: tuple[int, ...], dtype: str, seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool, image, dtype)
    program = check(outputs, fed(seeded, inputs), [name] * 4)
    assert forward(program).startswith("tiles")
    assert "reduces windows of" in forward(program), forward(program)
    assert not any("pool" in kernel and "forward" in kernel for kernel in program.kernels)


ALONE: list[tuple[str, Pool, str]] = [
    ("overlapping", lambda x: max_pool2d(x, 3, stride=2), ""),
    ("padded", lambda x: max_pool2d(x, 2, padding=1), ""),
    ("gaps", lambda x: max_pool2d(x, 2, stride=3), ""),
    ("windows of 7", lambda x: max_pool2d(x, 7), "windows of 7 cross tiles of 4 along i"),
    ("7 along one", lambda x: mean_pool2d(x, (2, 7)), "windows of 7 cross tiles of 4 along j"),
]


@pytest.mark.parametrize(("name", "pool", "reason"), ALONE, ids=[a[0] for a in ALONE])
def test_other_windows_keep_a_kernel(
    name: str, pool: Pool, reason: str, seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool)
    program = check(outputs, fed(seeded, inputs), [name] * 4)
    assert "reduces" not in forward(program)
    [kernel] = [k for n, k in program.kernels.items() if "pool_forward" in n]
    assert kernel.strategy.startswith("nest")
    assert reason in kernel.strategy
    assert bool(reason) == ("not in convolution_forward" in kernel.strategy)


def test_plain_sums_keep_their_pools_apart(seeded: np.random.Generator) -> None:
    outputs, inputs = layer(lambda x: max_pool2d(x, 2))
    program = compile_graph(outputs, exact=True)
    reason = program.kernels["max_pool_forward"].strategy
    assert "not in convolution_forward: plain sums are finished row by row" in reason
    exact = program(**fed(seeded, inputs))
    assert len(exact) == len(outputs)


def test_what_is_pooled_is_stored_only_for_others(seeded: np.random.Generator) -> None:
    """By itself, with another reader, as an output, and with odd rows that are in no window."""
    x, w = leaves.input("x", (2, 16, 14, 15)), leaves.input("w", (16, 16, 3, 3))
    y = activations.relu(conv2d(x, w, padding=1))
    pooled = max_pool2d(y, 2)
    feeds = fed(seeded, [x, w])
    alone = check([pooled * 2.0], feeds)
    shared = check([pooled, mean_pool2d(y, 3, stride=1)], feeds)
    shown = check([pooled, y], feeds)
    assert "relu" not in buffers(alone)
    assert "relu" in buffers(shared) & buffers(shown)
    for program in (alone, shared, shown):
        assert "reduces windows of 2 x 2" in forward(program)
    assert [*shown.kernels] == ["convolution_forward"]


def test_one_value_and_one_window_a_kernel(seeded: np.random.Generator) -> None:
    """A second size and a second value keep kernels of their own; a mean beside the max not."""
    x, w = leaves.input("x", (2, 16, 16, 16)), leaves.input("w", (16, 16, 3, 3))
    y = activations.relu(conv2d(x, w, padding=1))
    z = activations.tanh(y)
    outputs = [max_pool2d(y, 2), mean_pool2d(y, 2), max_pool2d(y, 4), max_pool2d(z, 2), z]
    program = check(outputs, fed(seeded, [x, w]))
    reasons = {name: kernel.strategy for name, kernel in program.kernels.items()}
    assert [*reasons] == ["convolution_forward", "max_pool_forward", "max_pool_forward_2"]
    assert "reduces windows of 2 x 2" in reasons.pop("convolution_forward")
    assert all("it reduces others" in reason for reason in reasons.values())


def test_memory_is_planned_without_what_is_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two layers lies a quarter of what the first one makes."""
    x, w = leaves.input("x", (4, 16, 32, 32)), leaves.input("w", (16, 16, 3, 3))
    v = leaves.input("v", (16, 16, 3, 3))
    hidden = max_pool2d(activations.relu(conv2d(x, w, padding=1)), 2)
    outputs = [conv2d(hidden, v, padding=1)]
    pooled = compile_graph(outputs).schedule
    monkeypatch.setattr(Products, "refusal", lambda *_: "it was asked for")
    apart = compile_graph(outputs).schedule
    names = [{buffer.name for buffer in schedule.buffers} for schedule in (apart, pooled)]
    assert names[0] - names[1] == {"relu"}
    array = 4 * 16 * 32 * 32 * 4
    assert (pooled.arena_bytes, apart.arena_bytes) == (array // 4, array // 4 + array)


def test_the_first_greatest_and_nan(seeded: np.random.Generator) -> None:
    """Ties go to the first place, NaN beats numbers, and -inf alone is a maximum."""
    x, w = leaves.input("x", (1, 16, 8, 8)), leaves.input("w", (16, 16, 3, 3))
    b = leaves.input("b", (16,))
    y = conv2d(x, w, b, padding=1)
    outputs = [max_pool2d(y, 2), places(y), least(y), least_places(y)]
    bias = np.arange(16, dtype="f4")
    bias[3:5] = np.nan, -np.inf
    feeds = {"x": np.zeros(x.shape, "f4"), "w": np.zeros(w.shape, "f4"), "b": bias}
    program = compile_graph(outputs)
    [kernel] = program.kernels.values()
    assert "reduces windows" in kernel.strategy
    for got in program(**feeds)[::2]:
        np.testing.assert_array_equal(got, np.broadcast_to(bias[:, None, None], (1, 16, 4, 4)))
    check(outputs, fed(seeded, [x, w, b]))


@op
def places(x):
    """Where the greatest element of every 2x2 window is."""
    n, c, i, j = axes("n c i j")
    r, s = axis("r", 2), axis("s", 2)
    return define[n, c, i, j](argmax_over[r, s](x[n, c, 2 * i + r, 2 * j + s]))


@op
def least(x):
    """The least element of every 2x2 window."""
    n, c, i, j = axes("n c i j")
    r, s = axis("r", 2), axis("s", 2)
    return define[n, c, i, j](min_over[r, s](x[n, c, 2 * i + r, 2 * j + s]))


@op
def least_places(x):
    """Where the least element of every 2x2 window is."""
    n, c, i, j = axes("n c i j")
    r, s = axis("r", 2), axis("s", 2)
    return define[n, c, i, j](argmin_over[r, s](x[n, c, 2 * i + r, 2 * j + s]))


@op
def quarter(image):
    """The equation of a 2x2 max pool under other names."""
    b, f, y, x = axes("b f y x")
    down, right = axis("down", 2), axis("right", 2)
    return define[b, f, y, x](max_over[down, right](image[b, f, 2 * y + down, 2 * x + right]))


def test_names_decide_nothing() -> None:
    texts = []
    for pool in (lambda x: max_pool2d(x, 2), quarter):
        x, w = leaves.input("x", (2, 16, 16, 16)), leaves.parameter("w", (16, 16, 3, 3))
        program = compile_graph([pool(activations.relu(conv2d(x, w, padding=1)))])
        [kernel] = program.kernels.values()
        lines = kernel.source.splitlines()
        texts.append("\n".join(line for line in lines if not line.startswith("//")))
    for old, new in (("quarter", "max_pool"), ("down", "r_2"), ("right", "s_2")):
        texts[1] = texts[1].replace(old, new)
    assert texts[0].count("max_pool") == texts[1].count("max_pool") > 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_do_not_change_a_bit(dtype: str, seeded: np.random.Generator) -> None:
    outputs, inputs = layer(lambda x: max_pool2d(x, 2), (3, 32, 22, 26), dtype)
    feeds = fed(seeded, inputs)
    first, *others = (compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3, 4))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_sum_of_products_over_windows(seeded: np.random.Generator) -> None:
    """A product of windows with another array is no pool."""
    x, w = leaves.input("x", (2, 16, 8, 8)), leaves.input("w", (16, 16, 3, 3))
    y = conv2d(x, w, padding=1)
    check([mean_pool2d(elementwise.multiply(y, y), 2)], fed(seeded, [x, w]))
    depthwise = conv2d(y, leaves.input("v", (16, 1, 2, 2)), stride=2, groups=16)
    assert window_sizes(depthwise.op_equation()) is None


SIZES = [
    (max_pool2d, (2, 3, 8, 8), 2, (1, 1, 2, 2)),
    (max_pool2d, (2, 3, 9, 8), (4, 2), (1, 1, 4, 2)),
    (mean_pool2d, (2, 3, 4, 4), 4, (1, 1, 4, 4)),  # one window an image
    (pooling.max_pool1d, (2, 3, 9), 3, (1, 1, 3)),
]


@pytest.mark.parametrize(("pool", "image", "window", "sizes"), SIZES)
def test_sizes_of_windows(pool, image: tuple[int, ...], window, sizes: tuple[int, ...]) -> None:
    assert window_sizes(pool(leaves.input("x", image), window).op_equation()) == sizes


@pytest.mark.parametrize("settings", [{"stride": 1}, {"stride": 3}, {"padding": 1}])
def test_no_sizes_of_other_windows(settings: dict[str, int]) -> None:
    x = leaves.input("x", (2, 3, 9, 9))
    assert window_sizes(max_pool2d(x, 2, **settings).op_equation()) is None


def test_tuning_keeps_windows_within_tiles() -> None:
    """Neither the plain sum nor tiles that windows cross are tried."""
    x, w = leaves.input("x", (2, 16, 16, 16)), leaves.parameter("w", (16, 16, 3, 3))
    block = BLOCKS["avx2"]
    tried = []
    for window in (2, 4):
        out = max_pool2d(activations.relu(conv2d(x, w, padding=1)), window)
        schedule = make_schedule(run_passes(Graph((out,))), block)
        [plan] = schedule.kernels
        space = Space(alone(plan, schedule), block, False)
        found = [space.default, *space.proposals(space.default, 0)]
        tried.append({tuple(a.outputs for a in c.variant.algorithms) for c in found})
    assert tried == [set(product((2, 4, 6), repeat=2)), {(4, 4)}]
