"""Tiled (Winograd) convolutions, forward and both gradients, against the oracle in float64."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.ir.graph import Node
from graphc.ir.types import DType
from graphc.ops import activations, elementwise, leaves
from graphc.ops.convolution import conv1d, conv2d, conv3d, conv_transpose2d
from graphc.ops.define import axes, define, op, sum_over
from graphc.ops.pooling import max_pool2d
from graphc.passes.sliding import sliding_product
from tests.compiled import check, distance, with_gradients

TOLERANCE = {"float64": 1e-13, "float32": 4e-6}
Feeds = dict[str, np.ndarray]


def tiled(outputs: Sequence[Node], feeds: Feeds, **options: object):
    """Compile, compare with the oracle in float64, and give back the program."""
    program = compile_graph(outputs, **options)
    wanted = evaluate(list(outputs), feeds, float_dtype="float64")
    for got, want in zip(program(**feeds), wanted, strict=True):
        assert distance(got, want) < TOLERANCE[outputs[0].dtype.value], program.folder
    return program


@pytest.fixture(autouse=True)
def _tiles_always_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small convolutions too: the cost model would leave some of them alone."""
    monkeypatch.setattr("graphc.schedule.choose._ADVANTAGE", 0.0)


def strategies(program) -> list[str]:
    return [kernel.strategy.partition(":")[0] for kernel in program.kernels.values()]


def fed(generator: np.random.Generator, *nodes: Node) -> Feeds:
    """Filters scaled so that sums stay near 1, where tanh does not saturate."""
    scales = [1.0 if n.label == "x" else 1 / np.sqrt(np.prod(n.shape[1:])) for n in nodes]
    return {
        n.label: (generator.normal(size=n.shape) * s).astype(n.dtype.numpy)
        for n, s in zip(nodes, scales, strict=True)
    }


def smooth(node: Node) -> Node:
    """A value that only kernels see, so that it may lie in blocks."""
    return activations.tanh(node)


# name, input, filter, settings: odd sizes leave partial tiles; channels are whole vectors.
CASES = [
    ("same", (2, 32, 16, 16), (32, 32, 3, 3), {"padding": 1}),
    ("partial tiles", (1, 16, 15, 13), (48, 16, 3, 3), {"padding": 1}),
    ("valid", (2, 32, 18, 15), (16, 32, 3, 3), {"padding": 0}),
    ("asymmetric padding", (1, 16, 13, 14), (32, 16, 3, 3), {"padding": ((2, 0), (0, 1))}),
    ("five taps", (2, 32, 12, 14), (32, 32, 5, 5), {"padding": 2}),
    ("two by four taps", (2, 32, 13, 17), (32, 32, 2, 4), {"padding": 1}),
    ("many images", (40, 16, 6, 6), (16, 16, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_convolution_and_gradients(case, dtype: str, seeded: np.random.Generator) -> None:
    _, image, taps, settings = case
    x, w = leaves.input("x", image, dtype), leaves.input("w", taps, dtype)
    y = smooth(conv2d(smooth(x), w, **settings))
    program = tiled(with_gradients(y, [x, w], seeded), fed(seeded, x, w))
    assert strategies(program).count("tiles") == 3, [k.strategy for k in program.kernels.values()]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_arrays_of_16_bits(dtype: str, seeded: np.random.Generator) -> None:
    """Transformed in float32: vectors and gathered patches are widened as they are loaded."""
    for name, image, taps, settings in CASES[:4]:
        x, w = leaves.input("x", image, dtype), leaves.input("w", taps, dtype)
        outputs = with_gradients(smooth(conv2d(smooth(x), w, **settings)), [x, w], seeded)
        program = check(outputs, fed(seeded, x, w), [name] * 3)
        assert strategies(program).count("tiles") == 3, name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_and_three_dimensions(dtype: str, seeded: np.random.Generator) -> None:
    x = leaves.input("x", (2, 32, 61), dtype)
    w = leaves.input("w", (32, 32, 3), dtype)
    line = tiled(
        with_gradients(smooth(conv1d(smooth(x), w, padding=1)), [x, w], seeded), fed(seeded, x, w)
    )
    x = leaves.input("x", (1, 32, 9, 10, 11), dtype)
    w = leaves.input("w", (32, 32, 3, 3, 3), dtype)
    cube = tiled(
        with_gradients(smooth(conv3d(smooth(x), w, padding=1)), [x, w], seeded), fed(seeded, x, w)
    )
    assert strategies(line).count("tiles") == strategies(cube).count("tiles") == 3


def test_reversed_window_and_its_filter_gradient(seeded: np.random.Generator) -> None:
    """A transposed convolution of stride 1 slides its window backwards."""
    x, w = (
        leaves.input("x", (2, 32, 14, 14), "float64"),
        leaves.input("w", (32, 32, 3, 3), "float64"),
    )
    y = smooth(conv_transpose2d(smooth(x), w, padding=1))
    program = tiled(with_gradients(y, [x, w], seeded), fed(seeded, x, w))
    assert strategies(program).count("tiles") == 3


def test_epilogue_pool_and_blocked_arrays(seeded: np.random.Generator) -> None:
    """Bias, relu, pooling with its argmax, and two layers with blocks of channels between."""
    x = leaves.input("x", (3, 16, 18, 18), "float64")
    v, w = (leaves.input(n, (32, c, 3, 3), "float64") for n, c in (("v", 16), ("w", 32)))
    b = leaves.input("b", (32,), "float64")
    hidden = max_pool2d(activations.relu(conv2d(x, v, b, padding=1)), 2)
    y = activations.relu(conv2d(hidden, w, b, padding=1))
    program = tiled(with_gradients(y, [x, v, w, b], seeded), fed(seeded, x, v, w, b))
    laid_out = [b for b in program.schedule.buffers if b.layout.lanes is not None]
    assert {b.dtype for b in laid_out} == {DType.float64, DType.uint8}
    assert all(b.storage == "arena" for b in laid_out)


def test_exact_keeps_the_sum_as_it_stands(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (1, 16, 16, 16)), leaves.input("w", (16, 16, 3, 3))
    program = tiled([conv2d(x, w, padding=1)], fed(seeded, x, w), exact=True)
    assert strategies(program) == ["contraction"]


def test_error_is_below_the_printed_bound(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (1, 256, 16, 16))
    w = leaves.input("w", (64, 256, 3, 3))
    outputs = with_gradients(conv2d(x, w, padding=1), [x, w], seeded)
    program = compile_graph(outputs)
    feeds = fed(seeded, x, w)
    wanted = evaluate(outputs, feeds, float_dtype="float64")
    bounds = [
        float(k.strategy.rpartition("below ")[2])
        for k in program.kernels.values() if k.strategy.startswith("tiles")
    ]  # fmt: skip
    found = [distance(got, want) for got, want in zip(program(**feeds), wanted, strict=True)]
    assert len(bounds) == 3
    assert all(1e-8 < error < max(bounds) for error in found), (found, bounds)


@pytest.mark.parametrize(
    ("settings", "taps"),
    [({"stride": 2}, 3), ({"dilation": 2}, 3), ({"groups": 2}, 3), ({}, 1), ({}, 7)],
)
def test_other_windows_are_left_alone(settings: dict[str, int], taps: int) -> None:
    groups = settings.get("groups", 1)
    x = leaves.input("x", (1, 32, 16, 16))
    w = leaves.input("w", (32, 32 // groups, taps, taps))
    assert sliding_product(conv2d(x, w, **settings).op_equation()) is None


def test_own_op_with_a_sliding_window(seeded: np.random.Generator) -> None:
    """Recognised from the equation: another name, other axis names, filters last."""

    @op
    def smear(image, kernel):
        """out[b, p, f] = sum over q, c of image[b, p + q, c] * kernel[q, c, f]."""
        b, p, f, q, c = axes("b p f q c")
        return define[b, p, f](sum_over[q, c](image[b, p + q, c] * kernel[q, c, f]))

    x = leaves.input("x", (4, 66, 32), "float64")
    w = leaves.input("w", (3, 32, 32), "float64")
    program = tiled(with_gradients(smear(x, w), [x, w], seeded), fed(seeded, x, w))
    assert strategies(program).count("tiles") == 3


def test_threads_do_not_change_a_bit(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (2, 32, 30, 30)), leaves.input("w", (64, 32, 3, 3))
    outputs = with_gradients(elementwise.exp(conv2d(x, w, padding=1) * 0.1), [x, w], seeded)
    feeds = fed(seeded, x, w)
    first, *others = (compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("images", "held"), [(1, "CHUNK"), (200, "COLUMNS")])
def test_few_tiles_stay_while_filters_stream(
    images: int, held: str, seeded: np.random.Generator
) -> None:
    """Filters are transformed by the task that needs them where one block holds all tiles."""
    x = leaves.input("x", (images, 16, 8, 8), "float32")
    w = leaves.input("w", (256, 16, 3, 3), "float32")
    program = tiled([smooth(conv2d(smooth(x), w, padding=1))], fed(seeded, x, w))
    texts = [(Path(program.folder) / f"{name}.c").read_text() for name in program.kernels]
    assert sum(f"FILTERS = {held}" in text for text in texts) == 1
