"""Rows and columns of a product that are read from strips: one copy for all windows of a task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.backends.base import Program
from graphc.backends.c.toolchain import find_toolchain
from graphc.compiler import compile_graph
from graphc.ir.graph import Node
from graphc.ir.loops import BlockSizes
from graphc.schedule.blocking import line_rows
from tests.compiled import TOLERANCE, assert_close, run_python, with_gradients

Convolution = Callable[..., Node]


def layers(
    convolve: Convolution, image: tuple[int, ...], filters: tuple[int, ...],
    settings: dict[str, Any], dtype: str, generator: np.random.Generator,
) -> list[Node]:  # fmt: skip
    """A convolution between two maps, so that its arrays lie as they like, with gradients."""
    x, w = gx.input("x", image, dtype), gx.input("w", filters, dtype)
    return with_gradients(gx.tanh(convolve(gx.tanh(x), w, **settings)), [x, w], generator)


def compared(
    outputs: list[Node], generator: np.random.Generator, dtype: str = "float32"
) -> Program:
    """The program of direct sums, after its results were compared with the oracle's."""
    program = compile_graph(outputs, exact=True)
    feeds = {
        node.label: (generator.normal(size=node.shape) / 4).astype(dtype)
        for node in program.inputs
    }  # fmt: skip
    wanted = gx.evaluate(outputs, feeds, float_dtype="float64")
    for output, got, want in zip(outputs, program(**feeds), wanted, strict=True):
        assert_close(got, want, TOLERANCE[dtype], output.label)
    return program


wide_vectors = pytest.mark.skipif(
    not find_toolchain().simd.startswith("avx512"), reason="strips are chosen for vectors of 16"
)


def with_strips(program: Program) -> list[str]:
    """The kernels that read strips."""
    return [name for name, kernel in program.kernels.items() if "lane_at[" in kernel.source]


FORWARD, IMAGES, FILTERS = "convolution_forward", "d_tanh", "d_w"
GROUPS = "d_reshape_2"  # filters of a convolution in groups
# what convolves which images by which filters, how; which kernels read strips
CASES = [
    (gx.conv2d, (2, 16, 24, 24), (32, 16, 3, 3), {"padding": 1}, {FORWARD, FILTERS}),
    (gx.conv2d, (4, 3, 48, 64), (32, 3, 7, 7), {"stride": 2, "padding": 3}, {FORWARD, FILTERS}),
    (gx.conv2d, (2, 3, 28, 32), (64, 3, 3, 3), {"padding": 1}, {FORWARD, IMAGES}),
    (gx.conv2d, (2, 3, 96, 80), (32, 3, 3, 3), {"padding": 1}, {FORWARD, IMAGES, FILTERS}),
    (
        gx.conv2d, (2, 32, 22, 26), (48, 32, 3, 3),
        {"dilation": 2, "padding": ((2, 0), (1, 3))}, {FORWARD},
    ),
    (
        gx.conv2d, (2, 64, 26, 28), (64, 32, 5, 5), {"padding": 2, "groups": 2},
        {"grouped_convolution_forward"},
    ),
    (gx.conv2d, (2, 16, 40, 25), (32, 16, 3, 5), {"stride": (2, 1), "padding": (1, 2)}, {FORWARD}),
    (gx.conv2d, (1, 32, 16, 20), (512, 32, 3, 3), {"padding": 1}, {FORWARD}),
    (gx.conv2d, (3, 64, 20, 20), (32, 64, 1, 1), {}, {FORWARD}),
    (gx.conv2d, (2, 64, 20, 20), (4, 64, 1, 1), {}, {FORWARD}),
    (gx.conv1d, (2, 16, 400), (32, 16, 9), {"padding": 4}, {FORWARD, FILTERS}),
    (gx.conv3d, (2, 16, 6, 10, 12), (32, 16, 3, 3, 3), {"padding": 1}, {FORWARD, FILTERS}),
    # filters whose gradients are dots along lines of 27, 20 and 30 elements
    (gx.conv2d, (4, 8, 30, 27), (5, 8, 3, 3), {"padding": 1}, {FILTERS}),
    (gx.conv2d, (2, 32, 14, 20), (24, 4, 3, 3), {"padding": (1, 2), "groups": 8}, {GROUPS}),
    (gx.conv2d, (3, 12, 40, 30), (6, 6, 5, 3), {"padding": (2, 1), "groups": 2}, {GROUPS}),
    # lines of a strip where two channels alternate
    (gx.conv2d, (3, 32, 12, 24), (16, 8, 3, 3), {"padding": 1, "groups": 4}, {GROUPS}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("convolve", "image", "filters", "settings", "expected"), CASES)
def test_convolutions(
    convolve: Convolution, image: tuple[int, ...], filters: tuple[int, ...],
    settings: dict[str, Any], expected: set[str], dtype: str, seeded: np.random.Generator,
) -> None:  # fmt: skip
    program = compared(layers(convolve, image, filters, settings, dtype, seeded), seeded, dtype)
    if dtype == "float32" and find_toolchain().simd.startswith("avx512"):  # vectors of 16
        assert expected <= set(with_strips(program))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("image", "filters", "settings"),
    [
        ((2, 16, 20, 27), (24, 16, 3, 3), {"padding": 1}),  # a vector and a part of one
        ((2, 8, 6, 100), (20, 8, 3, 3), {"padding": (1, 0)}),  # panels, the last one in part
        ((3, 5, 33, 48), (40, 5, 5, 3), {"padding": (2, 1), "dilation": (1, 2)}),
        ((2, 24, 15, 30), (16, 3, 3, 3), {"padding": 1, "groups": 8}),
    ],
)
def test_lines_of_a_result_that_lies_row_by_row(
    image: tuple[int, ...], filters: tuple[int, ...], settings: dict[str, Any], dtype: str,
    seeded: np.random.Generator,
) -> None:  # fmt: skip
    """Nothing follows that would like channels side by side: positions fill the vectors."""
    x, w = gx.input("x", image, dtype), gx.input("w", filters, dtype)
    y = gx.conv2d(x, w, **settings)
    program = compared([y, *gx.gradients(gx.sum(y * y), [x])], seeded, dtype)
    if dtype == "float32":
        assert any("LINE_PANELS" in kernel.source for kernel in program.kernels.values())


def test_lines_as_long_as_a_vector(seeded: np.random.Generator) -> None:
    """What follows reads a row of its own along the line, so that lines are not merged."""
    x, w = gx.input("x", (2, 8, 20, 16)), gx.input("w", (4, 8, 3, 3))
    program = compared([gx.conv2d(x, w, padding=1) * gx.input("m", (16,))], seeded)
    assert any("LINE_PANELS" in kernel.source for kernel in program.kernels.values())


@pytest.mark.parametrize(
    ("left", "right", "near"),
    [
        ((8, 256, 64), (8, 64, 128), True),
        ((8, 240, 32), (8, 32, 96), True),
        ((200, 32), (32, 48), True),
        ((512, 128), (128, 64), False),
    ],
)
def test_rows_of_a_matrix(
    left: tuple[int, ...], right: tuple[int, ...], near: bool, seeded: np.random.Generator
) -> None:
    """Rows that lie near each other are read where they lie, without a copy."""
    a, b = gx.input("a", left), gx.input("b", right)
    program = compared(with_gradients(gx.matmul(a, b), [a, b], seeded), seeded)
    source = program.kernels["matmul_forward"].source
    assert ("lane_at[" in source) == near and "copy_line" not in source


def test_factors_too_large_to_pack_once(seeded: np.random.Generator) -> None:
    a, b = gx.input("a", (64, 512, 64)), gx.input("b", (64, 64, 512))
    program = compile_graph([gx.matmul(a, b)])
    left, right = (seeded.normal(size=node.shape).astype("float32") for node in (a, b))
    (got,) = program(a=left, b=right)
    assert_close(got, left.astype("float64") @ right.astype("float64"), TOLERANCE["float32"])
    assert with_strips(program)


@pytest.mark.parametrize(
    ("line", "rows"), [(224, 14), (28, 14), (20, 10), (12, 12), (32, None), (7, None), (13, 13)]
)
def test_rows_of_a_register_block_in_a_line(line: int, rows: int | None) -> None:
    """As many as registers hold beside two vectors of columns, of the 32 that AVX-512 has."""
    found = line_rows(BlockSizes(8, 2, 64, 32), line)
    assert (found and found.rows) == rows
    assert line_rows(BlockSizes(4, 3, 32, 16), line) is None  # AVX2 has 16 registers


def test_a_strip_is_copied_once_for_many_columns(seeded: np.random.Generator) -> None:
    """Rows in a line of 28, column panels outside of them, the sums of two blocks of the depth."""
    outputs = layers(
        gx.conv2d, (2, 160, 28, 28), (64, 160, 3, 3), {"padding": 1}, "float32", seeded
    )
    program = compared(outputs, seeded)
    source = program.kernels[FORWARD].source
    assert source.index("panel < panels; panel++") < source.index("top < rows; top += MR")


@wide_vectors
def test_vectors_of_columns_are_read_where_they_lie(seeded: np.random.Generator) -> None:
    """Of a filter gradient's two factors one is a strip; the other is not copied at all."""
    outputs = layers(gx.conv2d, *CASES[3][1:4], "float32", seeded)
    source = compile_graph(outputs, exact=True).kernels[FILTERS].source
    assert "my_columns" not in source and "__builtin_prefetch(ahead)" in source


def test_what_lies_beside_a_window_is_not_read_as_zero_times_infinity(
    seeded: np.random.Generator,
) -> None:
    """The zeros around an image stay zeros, and an infinite element reaches its windows alone."""
    x, w = gx.input("x", (2, 16, 24, 24)), gx.input("w", (32, 16, 3, 3))
    program = compile_graph([gx.relu(gx.conv2d(gx.relu(x), w, padding=1))], exact=True)
    images = seeded.normal(size=x.shape).astype("float32")
    images[0, 3, 0, 23] = np.inf
    (got,) = program(x=images, w=np.abs(seeded.normal(size=w.shape)).astype("float32"))
    found = {tuple(place) for place in np.argwhere(~np.isfinite(got))[:, [0, 2, 3]]}
    assert found == {(0, i, j) for i in (0, 1) for j in (22, 23)}
    assert np.isinf(got).any() and not np.isnan(got).any()


@wide_vectors
def test_an_infinite_element_reaches_the_taps_that_see_it_alone(
    seeded: np.random.Generator,
) -> None:
    """The last vector of a line is not filled: what lies behind is not multiplied by zeros."""
    x, w, s = (
        gx.input("x", (2, 8, 20, 27)),
        gx.input("w", (4, 8, 3, 3)),
        gx.input("s", (2, 4, 20, 27)),
    )
    y = gx.conv2d(gx.relu(x), w, padding=1)
    program = compile_graph(list(gx.gradients(gx.sum(y * gx.relu(s)), [w])), exact=True)
    assert with_strips(program)
    feeds = {n.label: seeded.normal(size=n.shape).astype("float32") for n in program.inputs}
    feeds["x"][0, 3, 19, 26] = np.inf
    (got,) = program(**{n.label: np.abs(feeds[n.label]) + 1 for n in program.inputs})
    found = {tuple(place) for place in np.argwhere(~np.isfinite(got))[:, 1:]}
    assert found == {(3, r, s) for r in (1, 2) for s in (1, 2)}
    assert not np.isnan(got).any()


DIGEST = """
import hashlib, numpy as np, graphc as gx
from graphc.compiler import compile_graph
data = np.random.default_rng(5)
x, w, v = gx.input("x", (2, 3, 40, 48)), gx.input("w", (32, 3, 3, 3)), gx.input("v", (16, 32, 3, 3))
y = gx.relu(gx.conv2d(gx.relu(gx.conv2d(gx.relu(x), w, padding=1)), v, stride=2, padding=1))
outputs = [y, *gx.gradients(gx.sum(y * y), [x, w, v])]
feeds = {n.label: data.normal(size=n.shape).astype("float32") for n in (x, w, v)}
digests = set()
for threads in (1, 2, 3):
    program = compile_graph(outputs, exact=True, threads=threads)
    digests.add(hashlib.sha256(b"".join(a.tobytes() for a in program(**feeds))).hexdigest())
assert sum("lane_at[" in k.source for k in program.kernels.values()) >= 2
for got, want in zip(program(**feeds), gx.evaluate(outputs, feeds, float_dtype="float64")):
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
print(len(digests))
"""


@pytest.mark.parametrize(
    "setting", ["GRAPHC_MARCH=native", "GRAPHC_MARCH=haswell", "GRAPHC_SANITIZE=undefined"]
)
def test_same_bits_for_every_number_of_threads(setting: str) -> None:
    name, _, value = setting.partition("=")
    if value == "haswell" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor cannot run code for haswell")
    assert run_python(DIGEST, **{name: value}).split()[-1] == "1"
