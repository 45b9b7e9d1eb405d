"""Packing of factors whose lanes and depth are both short or strided, with borders of zeros."""

from pathlib import Path

import numpy as np
import pytest

from graphc.compiler import compile_graph
from graphc.ops import leaves
from graphc.ops.convolution import conv2d
from graphc.ops.linear import matmul
from tests.compiled import check, with_gradients

# image, filters, settings: few channels, borders as wide as the window, images narrower than it
CASES = [
    ((2, 3, 20, 22), (16, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((1, 3, 9, 33), (16, 3, 5, 5), {"stride": 3, "padding": ((4, 1), (0, 4))}),
    ((2, 2, 6, 4), (8, 2, 7, 7), {"padding": 6}),
    ((1, 3, 17, 18), (16, 3, 3, 3), {"dilation": 3, "padding": 5}),
    ((3, 4, 12, 40), (12, 4, 3, 9), {"stride": (2, 1), "padding": 8}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("image", "filters", "settings"), CASES)
def test_borders(image, filters, settings, dtype: str, seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", image, dtype), leaves.input("w", filters, dtype)
    outputs = with_gradients(conv2d(x, w, **settings), [x, w], seeded)
    check(outputs, {n.label: seeded.normal(size=n.shape).astype(dtype) / 4 for n in (x, w)})


def test_a_lane_is_tested_once_not_at_every_element(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", CASES[0][0], "float32"), leaves.input("w", CASES[0][1], "float32")
    _, _, dw = with_gradients(conv2d(x, w, stride=2, padding=3), [x, w], seeded)
    program = compile_graph([dw])
    texts = [(Path(program.folder) / f"{name}.c").read_text() for name in program.kernels]
    assert any("begin = gc_max(begin, " in text for text in texts)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_are_shared_are_fetched_ahead(dtype: str, seeded: np.random.Generator) -> None:
    """Unless they stay near: 160 and 12 rows of 1100 elements, in several blocks of the depth."""
    right = leaves.input("right", (1100, 500), dtype)
    for rows, fetched in ((160, True), (12, False)):
        left = leaves.input("left", (rows, 1100), dtype)
        feeds = {n.label: seeded.normal(size=n.shape).astype(dtype) / 8 for n in (left, right)}
        product = matmul(left, right)
        check([product], feeds)
        (kernel,) = compile_graph([product]).kernels.values()
        assert ("__builtin_prefetch(ahead)" in kernel.source) == fetched
