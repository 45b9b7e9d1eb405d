"""Contractions as products by tiles: shapes around the tiles, every way memory can run, fusion."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from graphc.ir.graph import Node
from graphc.ir.types import DType
from graphc.ops import activations, leaves, linear, shape
from graphc.ops.convolution import conv2d
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.ops.pooling import max_pool2d
from graphc.schedule.product_tiles import choose_tile
from tests.compiled import with_gradients
from tests.cuda.programs import (
    Feeds,
    all_instructions,
    check_on_emulator,
    compile_with_nvcc,
    generated,
)
from tests.test_c_backend import EINSUMS, gated, small_convolution

# Rows, depth, columns around multiples of the tiles, and depths of several stages and pieces.
PRODUCTS = [
    (4, 4, 8), (5, 7, 9), (64, 32, 64), (65, 33, 65), (130, 64, 200), (17, 769, 31), (8, 1600, 16),
]  # fmt: skip


def products(seeded: np.random.Generator, dtype: str) -> tuple[list[Node], Feeds]:
    """Each shape with each factor stored either way round."""
    outputs, feeds = [], {}
    for rows, depth, columns in PRODUCTS:
        for turned in itertools.product((False, True), repeat=2):
            sides = []
            shapes = [(rows, depth), (depth, columns)]
            for letter, extents, turn in zip("ab", shapes, turned, strict=True):
                name = f"{letter} {rows} {depth} {columns} {turned}"
                side = leaves.input(name, extents[::-1] if turn else extents, dtype)
                feeds[name] = seeded.normal(size=side.shape).astype(dtype)
                sides.append(shape.transpose(side) if turn else side)
            outputs.append(linear.matmul(*sides))
    return outputs, feeds


@pytest.mark.parametrize(
    "kind", ["fp32", "tf32", "bf16", "fp16", pytest.param("float64", marks=pytest.mark.slow)]
)
def test_matrix_products(kind: str, seeded: np.random.Generator) -> None:
    dtype, precision = (kind, "fp32") if kind == "float64" else ("float32", kind)
    program = check_on_emulator(*products(seeded, dtype), precision=precision)
    sources = [k.source for k in program.kernels.values() if "by tiles of" in k.source]
    assert len(sources) == 4 * len(PRODUCTS)
    assert any("pieces of the depth" in text for text in sources)
    wrapper = {"tf32": "gc_mma_tf32(", "bf16": "gc_mma_bf16(", "fp16": "gc_mma_f16("}.get(kind)
    assert all((wrapper or "sum[i][j] += a[i][lane] * b[j][lane]") in text for text in sources)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_einsums_and_gradients(precision: str, seeded: np.random.Generator) -> None:
    outputs: list[Node] = []
    feeds: Feeds = {}
    for text, *shapes in EINSUMS:
        inputs = [leaves.input(f"{text} {n}", s, "float32") for n, s in enumerate(shapes)]
        outputs += with_gradients(linear.einsum(text, *inputs), inputs, seeded)
        feeds |= {node.label: seeded.normal(size=node.shape).astype("f4") for node in inputs}
    check_on_emulator(outputs, feeds, precision=precision)


GRID = [
    small_convolution(*point) for point in itertools.product((1, 2), (1, 2), (0, 1), (1, 2))
] + [small_convolution(3, 1, 2, 1)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_convolutions(precision: str, seeded: np.random.Generator) -> None:
    outputs: list[Node] = []
    feeds: Feeds = {}
    for case in GRID:
        arrays = case.sample(seeded, "float32")
        inputs = [leaves.input(f"{case.name} {n}", a.shape) for n, a in enumerate(arrays)]
        outputs += with_gradients(case.build(*inputs), inputs, seeded)
        feeds |= {node.label: array for node, array in zip(inputs, arrays, strict=True)}
    program = check_on_emulator(outputs, feeds, precision=precision)
    assert sum("by tiles of" in k.source for k in program.kernels.values()) > 20


def test_factors_that_are_computed(seeded: np.random.Generator) -> None:
    shapes = {"x": (3, 5, 20), "g": (3, 5), "w": (7, 5, 3), "s": (7,)}
    inputs = [leaves.input(name, extents) for name, extents in shapes.items()]
    feeds = {name: seeded.uniform(0.5, 2, size=e).astype("f4") for name, e in shapes.items()}
    program = check_on_emulator(with_gradients(gated(*inputs), inputs, seeded), feeds)
    assert "*(float *)(rows_tile" in program.kernels["gated_forward"].source


@op
def shifted(x: Operand, w: Operand) -> Definition:
    """out[n,k,i,j] = sum over c, r, s of x[n,c,i+r,j+s]*w[k,c,r,s]: the equation of conv2d."""
    n, k, i, j, c, r, s = axes("n k i j c r s")
    return define[n, k, i, j](sum_over[c, r, s](x[n, c, i + r, j + s] * w[k, c, r, s]))


def test_an_op_of_ones_own_gets_the_kernel_of_conv2d() -> None:
    x, w = leaves.input("x", (2, 8, 12, 12)), leaves.parameter("w", (16, 8, 3, 3))
    texts = []
    for out in (conv2d(x, w), shifted(x, w)):
        [file] = generated([out]).files
        body = "\n".join(line for line in file.text.splitlines() if not line.startswith("//"))
        texts.append(body.replace("shifted", "convolution"))
    assert texts[0] == texts[1]


def test_what_follows_a_product_is_its_epilogue(seeded: np.random.Generator) -> None:
    x, w, b = leaves.input("x", (70, 40)), leaves.input("w", (36, 40)), leaves.input("b", (36,))
    deep = leaves.input("deep", (70, 2000)), leaves.input("v", (36, 2000))
    outputs = [
        activations.relu(linear.dense(x, w, b)),
        activations.tanh(linear.dense(*deep, b)),
    ]
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, w, b, *deep)}
    program = check_on_emulator(outputs, feeds)
    first, second = program.kernels.values()
    assert "gc_store_lanes(relu" in first.source
    assert "dense_forward_2_finish(" in second.source
    assert second.source.index("_finish(") < second.source.index("tanhf(")


def test_channels_between_convolutions_run_through_memory(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (2, 3, 12, 12))
    u, v = leaves.input("u", (8, 3, 3, 3)), leaves.input("v", (12, 8, 3, 3))
    hidden = max_pool2d(activations.relu(conv2d(x, u, padding=1)), 2)
    out = conv2d(hidden, v, padding=1)
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, u, v)}
    program = check_on_emulator(with_gradients(out, [x, u, v], seeded), feeds)
    source = program.kernels["convolution_forward_2"].source
    assert "4 neighbours of the depth at once" in source
    assert re.search(r"gc_cp_async16\(.* \? max_pool \+", source)
    layouts = {b.name: b.layout.digits[-1].dimension for b in program.schedule.buffers}
    assert layouts["max_pool"] == 1
    assert layouts["x"] == 3


def test_tiles_follow_the_shape() -> None:
    def tile(*sizes: int) -> tuple[int, int, int]:
        found, pieces, _ = choose_tile(*sizes, "tf32", DType.float32)
        return found.rows, found.columns, pieces

    assert tile(1, 8192, 8192, 4096) == (128, 128, 1)
    assert tile(1, 64, 200_000, 576) == (64, 128, 1)
    rows, columns, pieces = tile(1, 64, 576, 3_211_264)
    assert pieces >= 32
    assert -(-64 // rows) * -(-576 // columns) * pieces >= 132


def vgg_layer() -> list[Node]:
    x, w = leaves.input("x", (8, 64, 28, 28)), leaves.parameter("w", (64, 64, 3, 3))
    return with_gradients(conv2d(x, w, padding=1), [x, w], np.random.default_rng(0))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    ("precision", "instruction"),
    [
        ("fp32", "FFMA"),
        ("tf32", "HMMA.1688.F32.TF32"),
        ("bf16", "HMMA.16816.F32.BF16"),
        ("fp16", "HMMA.16816.F32"),
    ],
)
def test_a_layer_of_vgg_compiles_to_the_instructions_meant(
    precision: str, instruction: str, architecture: str, tmp_path: Path
) -> None:
    emitted = generated(vgg_layer(), precision=precision)
    said = compile_with_nvcc(emitted, architecture, tmp_path)
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}
    assert set(re.findall(r"(\d+) bytes stack frame", said)) == {"0"}
    found = all_instructions([tmp_path / "whole.cubin"], architecture)
    assert any(name.startswith("LDGSTS") for name in found)
    assert not any(name in ("LDL", "STL") for name in found)
    assert found[instruction] >= 64
    assert precision == "fp32" or any(name.startswith("LDSM.16.M") for name in found)
    assert precision in ("fp32", "tf32") or any("LDSM.16.MT88" in name for name in found)
