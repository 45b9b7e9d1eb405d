"""What is known at an argmax: gradients of maxima before and after the passes, by the oracle."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphc.autodiff.backward import gradients
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph, Node
from graphc.ir.types import DType
from graphc.ops import activations, elementwise, leaves, reductions
from graphc.ops.convolution import channel_sum
from graphc.ops.define import axes, axis, define, min_over, op
from graphc.ops.pooling import max_pool1d, max_pool2d, max_pool3d, mean_pool2d
from graphc.passes.pipeline import run_passes
from tests.compiled import assert_close, with_gradients

Feeds = dict[str, np.ndarray]
Pool = Callable[[Node], Node]


def passed(outputs: Sequence[Node], feeds: Feeds) -> Graph:
    """The graph after all passes, which gives the same values as before."""
    graph = run_passes(Graph(tuple(outputs)))
    wanted = evaluate(outputs, feeds, float_dtype="float64")
    got = evaluate(graph.outputs, feeds, float_dtype="float64")
    for number, (ours, want) in enumerate(zip(got, wanted, strict=True)):
        assert_close(ours, want, 1e-14, f"output {number}")
    return graph


def readers(graph: Graph, label: str) -> list[str]:
    """How those who read the nodes of a label reduce them."""
    return sorted(
        node.op_equation().reduction
        for node in graph.nodes
        if any(operand.label == label for operand in node.inputs)
    )


def whole_numbers(generator: np.random.Generator, *nodes: Node) -> Feeds:
    """Ties, zeros and negative numbers in most windows."""
    return {n.label: generator.integers(-2, 3, size=n.shape).astype("f8") for n in nodes}


def layer(pool: Pool, *image: int, relu: bool = True) -> tuple[list[Node], list[Node]]:
    """A pool of relu(x + b), gradients for x and b, and what to feed."""
    x, b = leaves.input("x", image, "float64"), leaves.input("b", image[1:2], "float64")
    hidden = channel_sum(x, b)
    out = pool(activations.relu(hidden) if relu else hidden)
    return with_gradients(out, [x, b], np.random.default_rng(0)), [x, b]


@op
def least(x):
    """out[n, c, i] = min over r of x[n, c, 3i + r]."""
    n, c, i = axes("n c i")
    r = axis("r", 3)
    return define[n, c, i](min_over[r](x[n, c, 3 * i + r]))


TOUCHING = [
    (lambda x: max_pool2d(x, 2), (3, 4, 6, 8)),
    (lambda x: max_pool2d(x, (3, 2)), (2, 4, 7, 9)),  # odd extents: the last are in no window
    (lambda x: max_pool1d(x, 4), (3, 4, 16)),
    (lambda x: max_pool3d(x, 2), (1, 4, 4, 6, 4)),
    (lambda x: max_pool2d(x, 4), (2, 4, 4, 4)),  # one window
]


@pytest.mark.parametrize(("pool", "image"), TOUCHING)
@pytest.mark.parametrize("relu", [True, False])
def test_windows_that_touch(
    pool: Pool, image: tuple[int, ...], relu: bool, seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool, *image, relu=relu)
    graph = passed(outputs, whole_numbers(seeded, *inputs))
    pooled = "relu" if relu else "channel_sum"
    assert readers(graph, pooled) == ["argmax", "max"]
    labels = {node.label for node in graph.nodes}
    assert ("d channel_sum at maxima" in labels) is relu
    db = graph.outputs[2]
    [summed] = db.inputs
    assert summed.shape == graph.outputs[0].shape


APART = [
    (lambda x: max_pool2d(x, 3, stride=2), (2, 4, 9, 9)),  # windows overlap
    (lambda x: max_pool2d(x, 3, stride=2, padding=1), (2, 4, 8, 8)),
    (lambda x: max_pool2d(x, 2, padding=1), (2, 4, 6, 6)),  # windows reach beyond the image
    (lambda x: max_pool2d(x, 2, stride=3), (2, 4, 8, 8)),  # gaps between windows
    (lambda x: mean_pool2d(x, 2), (2, 4, 6, 6)),
    (lambda x: mean_pool2d(x, 3, stride=1, padding=1), (2, 4, 6, 6)),
]


@pytest.mark.parametrize(("pool", "image"), APART)
def test_other_windows_give_the_same_values(
    pool: Pool, image: tuple[int, ...], seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool, *image)
    passed(outputs, whole_numbers(seeded, *inputs))


def test_padding_of_whole_windows(seeded: np.random.Generator) -> None:
    """Where a window has nothing but -inf its place may lie outside: sums over positions stay."""
    outputs, (x, b) = layer(lambda x: max_pool2d(x, 2, padding=1), 1, 2, 4, 4, relu=False)
    feeds = whole_numbers(seeded, x, b)
    feeds["x"][0, 0, 0, 0] = -np.inf
    graph = passed(outputs, feeds)
    [summed] = graph.outputs[2].inputs
    assert summed.shape == x.shape


def test_the_least_of_a_window(seeded: np.random.Generator) -> None:
    outputs, inputs = layer(least, 2, 4, 12)
    graph = passed(outputs, whole_numbers(seeded, *inputs))
    assert readers(graph, "relu") == ["argmin", "min"]


def scattered(x: Node, seeded: np.random.Generator) -> tuple[Node, Node]:
    """A 2x2 pool of x, and the gradient of a weighted sum of it."""
    return tuple(with_gradients(max_pool2d(x, 2), [x], seeded))


def test_a_function_of_the_array_is_read_at_the_maximum(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (2, 3, 6, 6), "float64")
    out, dx = scattered(x, seeded)
    graph = passed([out, dx * activations.tanh(x)], {"x": seeded.normal(size=x.shape)})
    assert readers(graph, "x") == ["argmax", "max"]


def test_a_function_of_another_place_is_left(seeded: np.random.Generator) -> None:
    """Of the array mirrored, of another array, and of one that is not multiplied."""
    x, z = (leaves.input(name, (2, 3, 6, 6), "float64") for name in "xz")
    out, dx = scattered(x, seeded)
    outputs = [out, dx * x[:, :, 5:6, :], dx * activations.tanh(z), dx + activations.tanh(x)]
    graph = passed(outputs, {n.label: seeded.normal(size=n.shape) for n in (x, z)})
    assert readers(graph, "x") == ["argmax", "max", "none", "none"]
    assert readers(graph, "z") == ["none"]


def test_sums_over_parts_of_windows_are_left(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (2, 3, 6, 8), "float64")
    out, dx = scattered(x, seeded)
    rows = reductions.sum(dx, axis=3)  # each window is in two rows
    images = reductions.sum(dx, axis=(1, 2, 3))
    squares = reductions.sum(elementwise.multiply(dx, dx))
    feeds = {"x": seeded.integers(-2, 3, size=x.shape).astype("f8")}
    graph = passed([out, rows, images, squares], feeds)
    terms = [node.op_equation().points for node in graph.outputs[1:3]]
    assert terms == [2 * 3 * 6 * 8, 2 * 3 * 3 * 4]


def test_what_is_not_finite_beside_a_maximum_is_nothing(seeded: np.random.Generator) -> None:
    """f(y) = y is -inf at a place that is no maximum: the product with 0 there is 0, not NaN."""
    x = leaves.input("x", (1, 1, 2, 2), "float64")
    out, dx = scattered(x, seeded)
    graph = run_passes(Graph((out, dx * x)))
    array = np.array([[[[1.0, -np.inf], [0.5, 0.0]]]])
    _, got = evaluate(graph.outputs, {"x": array}, float_dtype="float64")
    assert np.count_nonzero(got) == 1
    assert np.isfinite(got).all()


def test_places_take_a_byte_where_they_fit() -> None:
    x = leaves.input("x", (1, 2, 34, 34))
    for size, dtype in ((2, DType.uint8), (16, DType.uint8), (17, DType.int32)):
        [dx] = gradients(reductions.sum(max_pool2d(x, size)), [x])
        [places] = [n for n in Graph((dx,)).nodes if n.label == "argmax of max_pool"]
        assert places.dtype is dtype
