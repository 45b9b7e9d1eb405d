"""Sums over all positions of a convolution's results, as bias gradients, begin in its tiles."""

import numpy as np
import pytest

from graphc.autodiff.backward import gradients
from graphc.backends.base import Program
from graphc.backends.c.mapping import BLOCKS
from graphc.compiler import compile_graph
from graphc.ir.graph import Graph, Node
from graphc.ops import activations, elementwise, leaves, reductions
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.pooling import max_pool2d
from graphc.passes import split
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from graphc.tune.kernel import alone
from graphc.tune.variants import Space
from tests.compiled import check

Feeds = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def tiles_for_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.schedule.choose._ADVANTAGE", 0.0)


def layer(
    image: tuple[int, ...], filters: int = 16, dtype: str = "float32"
) -> tuple[Node, tuple[int, ...], Feeds]:
    """A convolution with relu, the dimensions that its bias does not have, and arrays."""
    generator, rank = np.random.default_rng(5), len(image) - 2
    convolve = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    x = leaves.input("x", image, dtype)
    w = leaves.input("w", (filters, image[1], *(3,) * rank), dtype)
    y = activations.relu(convolve(x, w, padding=1))
    feeds = {n.label: generator.normal(size=n.shape).astype(n.dtype.numpy) for n in (x, w)}
    return y, (0, *range(2, rank + 2)), feeds


def summing(program: Program) -> list[str]:
    """The kernels that begin a sum in their tiles."""
    return [name for name, kernel in program.kernels.items() if "in its tiles" in kernel.strategy]


IMAGES = [
    (2, 16, 16, 16), (3, 16, 13, 15), (1, 32, 8, 9), (3, 16, 37), (1, 16, 6, 5, 9),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("image", IMAGES)
def test_sums_begin_in_tiles(image: tuple[int, ...], dtype: str) -> None:
    y, over, feeds = layer(image, dtype=dtype)
    program = check([y, reductions.sum(y, over)], feeds)
    assert summing(program) == ["convolution_forward"]
    assert len(program.kernels) == 1


def test_the_array_itself_need_not_be_stored() -> None:
    y, over, feeds = layer((2, 16, 16, 16))
    program = check([reductions.sum(y, over)], feeds)
    assert summing(program) == ["convolution_forward"]
    assert len(program.schedule.buffers) == 3


def test_partial_sums_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_LONG_SUM", 1)
    y, over, feeds = layer((3, 16, 20, 14))
    program = check([y, reductions.sum(y, over)], feeds)
    assert len(program.kernels) == 1
    assert "partial_sums" in program.kernels["convolution_forward"].formula


def test_few_tiles_that_are_transformed_at_once() -> None:
    y, over, feeds = layer((1, 16, 8, 8), filters=512)
    program = check([y, reductions.sum(y, over)], feeds)
    assert "every task transforms the filters" in program.kernels["convolution_forward"].source
    assert summing(program) == ["convolution_forward"]


def test_pooled_values_are_summed() -> None:
    y, over, feeds = layer((2, 16, 14, 13))
    program = check([max_pool2d(y, 2), reductions.sum(y, over)], feeds)
    assert len(program.kernels) == 1
    assert "reduces windows" in program.kernels["convolution_forward"].strategy


def test_bias_gradients() -> None:
    """Of the first of two convolutions: its gradient is what the second's input gradient makes."""
    generator = np.random.default_rng(7)
    x = leaves.input("x", (3, 16, 18, 15))
    v, a = leaves.input("v", (32, 16, 3, 3)), leaves.input("a", (32,))
    w = leaves.input("w", (16, 32, 3, 3))
    y = conv2d(activations.relu(conv2d(x, v, a, padding=1)), w, padding=1)
    loss = reductions.sum(elementwise.square(activations.tanh(y)))
    feeds = {n.label: (generator.normal(size=n.shape) / 9).astype("f4") for n in (x, v, a, w)}
    program = check(gradients(loss, [v, a, w]), feeds)
    [name] = summing(program)
    assert "d_a" in program.kernels[name].formula


def test_threads_do_not_change_a_bit() -> None:
    y, over, feeds = layer((5, 32, 30, 31), filters=32)
    outputs = [y, reductions.sum(y, over)]
    first, *others = (compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3, 4))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("dtype", "over"), [("bfloat16", (0, 2, 3)), ("float32", (0, 2))])
def test_other_sums_have_a_kernel(dtype: str, over: tuple[int, ...]) -> None:
    """What is rounded to 16 bits, and sums that keep a dimension of the positions."""
    y, _, feeds = layer((2, 16, 16, 16), dtype=dtype)
    program = check([y, reductions.sum(y, over)], feeds)
    assert summing(program) == []
    [text] = [k.strategy for name, k in program.kernels.items() if name != "convolution_forward"]
    assert "not in convolution_forward: " in text


def test_tuning_keeps_the_order_of_a_sum() -> None:
    """Tiles of a task decide which sums are added first, so they are part of the arithmetic."""
    y, over, _ = layer((4, 32, 40, 40), filters=32)
    block = BLOCKS["avx2"]
    schedule = make_schedule(run_passes(Graph((y, reductions.sum(y, over)))), block)
    [plan] = schedule.kernels
    space = Space(alone(plan, schedule), block, exact=False)
    assert all(c.variant.algorithms for c in space.proposals(space.default, 0))
    tasks = [space.default, *space.proposals(space.default, 1)]
    orders = {candidate.variant.applied(plan, "").tile_blocks for candidate in tasks}
    assert len({candidate.arithmetic for candidate in tasks}) > 1
    assert len(orders) >= len({candidate.arithmetic for candidate in tasks})
