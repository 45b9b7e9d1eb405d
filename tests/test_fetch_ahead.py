"""Sums over the windows of blocked arrays fetch what they will read and write next."""

import re

import numpy as np
import pytest

import graphc as gx
from graphc.compiler import compile_graph
from tests.compiled import TOLERANCE, assert_close, with_gradients

# image, filters, settings: channels in blocks of 16 or 8
CASES = [
    ((2, 64, 20, 24), (64, 1, 3, 3), {"padding": 1}),
    ((3, 32, 18, 17), (32, 1, 5, 3), {"padding": (2, 0)}),
    ((2, 128, 15, 16), (128, 1, 3, 3), {"padding": 2, "dilation": 2}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("image", "filters", "settings"), CASES)
def test_depthwise_layers(
    image, filters, settings, dtype: str, seeded: np.random.Generator
) -> None:
    """Fetched places are those that a later step reaches: results do not depend on them."""
    x, w = gx.input("x", image, dtype), gx.input("w", filters, dtype)
    y = gx.tanh(gx.conv2d(gx.tanh(x), w, groups=image[1], **settings))
    outputs = with_gradients(y, [x, w], seeded)
    program = compile_graph(outputs)
    feeds = {n.label: (seeded.normal(size=n.shape) / 4).astype(dtype) for n in program.inputs}
    wanted = gx.evaluate(outputs, feeds, float_dtype="float64")
    for got, want in zip(program(**feeds), wanted, strict=True):
        assert_close(got, want, TOLERANCE[dtype])


def test_parts_of_the_next_line_are_fetched_for_each_tap() -> None:
    """Of a line of 56 vectors each of nine taps fetches a ninth, of both factors."""
    x, w = gx.input("x", (8, 128, 56, 56)), gx.input("w", (128, 1, 3, 3))
    y = gx.tanh(gx.conv2d(gx.tanh(x), w, padding=1, groups=128))
    program = compile_graph(list(gx.gradients(gx.sum(gx.tanh(y)), [w])))
    sums = [k.source for k in program.kernels.values() if "_sum_part[" in k.source]
    sizes = [int(n) for text in sums for n in re.findall(r"gc_fetch\(.* \* 4, (\d+)\);", text)]
    vectors = {-(-56 * lanes // 9) * 4 for lanes in (8, 16)}
    assert len(sizes) == 2 and len(set(sizes)) == 1 and set(sizes) < vectors
