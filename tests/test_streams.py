"""Results larger than the caches are stored past them; what later tiles read is fetched ahead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from graphc.compiler import compile_graph
from graphc.ir.graph import Node
from graphc.ops import activations, elementwise, leaves, linear
from graphc.ops.convolution import conv2d
from graphc.ops.pooling import max_pool2d
from tests.compiled import check, with_gradients


@pytest.fixture
def _all_arrays_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("graphc.lower.routines", "graphc.lower.tiles"):
        monkeypatch.setattr(f"{place}.STREAMED_BYTES", 0)
    monkeypatch.setattr("graphc.schedule.choose._ADVANTAGE", 0.0)


def network(generator: np.random.Generator, taps: int) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Two convolutions with an activation and a pool, enough points for parallel loops."""
    x = leaves.input("x", (2, 16, 18, 34), "float32")
    v = leaves.input("v", (32, 16, taps, taps), "float32")
    w = leaves.input("w", (32, 32, taps, taps), "float32")
    hidden = activations.relu(conv2d(activations.tanh(x), v, padding=taps // 2))
    y = max_pool2d(activations.relu(conv2d(hidden, w, padding=taps // 2)), 2)
    feeds = {n.label: generator.normal(size=n.shape).astype(np.float32) / 8 for n in (x, v, w)}
    return with_gradients(activations.tanh(y), [x, v, w], generator), feeds


def streaming(outputs: Sequence[Node]) -> set[str]:
    """How those kernels are computed that store past the caches."""
    program = compile_graph(outputs)
    return {
        kernel.strategy.partition(":")[0]
        for name, kernel in program.kernels.items()
        if "gc_stream(" in (Path(program.folder) / f"{name}.c").read_text()
    }


@pytest.mark.usefixtures("_all_arrays_are_large")
@pytest.mark.parametrize(("taps", "strategy"), [(3, "tiles"), (1, "contraction")])
def test_values_and_gradients(taps: int, strategy: str, seeded: np.random.Generator) -> None:
    outputs, feeds = network(seeded, taps)
    check(outputs, feeds)
    assert {strategy, "nest"} <= streaming(outputs)


@pytest.mark.usefixtures("_all_arrays_are_large")
def test_the_same_bits_for_any_number_of_threads(seeded: np.random.Generator) -> None:
    outputs, feeds = network(seeded, 3)
    one, two, three = (compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3))
    for a, b, c in zip(one, two, three, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


def test_small_results_stay_in_the_caches(seeded: np.random.Generator) -> None:
    assert not streaming(network(seeded, 3)[0])


@pytest.mark.usefixtures("_all_arrays_are_large")
def test_arrays_of_the_user_are_stored_as_ever(seeded: np.random.Generator) -> None:
    """Nothing is known of where they lie."""
    x = leaves.input("x", (64, 256, 16), "float32")
    assert not streaming([elementwise.multiply(x, x)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "columns", "depth", "kernels"),
    [(8, 1000, 512, 2), (8, 33, 2064, 2), (3, 272, 80, 2), (5, 64, 4099, 0)],
)
def test_columns_read_in_place(
    rows: int, columns: int, depth: int, kernels: int, dtype: str, seeded: np.random.Generator
) -> None:
    """Columns are not packed where whole vectors, of them or of the depth, lie together."""
    x, w = leaves.input("x", (rows, depth), dtype), leaves.input("w", (columns, depth), dtype)
    outputs = with_gradients(linear.dense(x, w), [x, w], seeded)
    check(outputs, {n.label: seeded.normal(size=n.shape).astype(dtype) / 8 for n in (x, w)})
    program = compile_graph(outputs)
    texts = [(Path(program.folder) / f"{name}.c").read_text() for name in program.kernels]
    assert sum("as it lies" in text for text in texts) == kernels
