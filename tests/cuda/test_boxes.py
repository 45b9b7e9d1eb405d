"""Products by boxes on the emulator: every tile, every way memory runs, edges, pieces, fusion."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.backends.cuda import box_product
from graphc.backends.cuda.disassemble import INSTALL_HINT, instructions
from graphc.compiler import compile_graph
from graphc.ir.boxes import BoxProduct
from graphc.ir.graph import Graph, Node
from graphc.ir.types import DType
from graphc.lower import box_products
from graphc.lower.grid import lower_to_grid
from graphc.ops import activations, leaves, linear, pooling
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.passes.pipeline import run_passes
from graphc.schedule.box_tiles import TILE_SIZES, TileCounts, TileSize, choose_box_tile
from graphc.schedule.plan import make_schedule
from graphc.schedule.products import Products
from tests.compiled import with_gradients
from tests.cuda.programs import Feeds, check_on_emulator, compile_with_nvcc, generated
from tests.cuda.test_products import vgg_layer

ARCH = "sm_90a"


def fed(nodes: Sequence[Node], generator: np.random.Generator) -> Feeds:
    return {n.label: generator.normal(size=n.shape).astype("f4") for n in nodes}


def reasons(program: Any) -> list[str]:
    """What each product says of its tiles."""
    found = [re.search(r"^// (batch .*)", k.source, re.M) for k in program.kernels.values()]
    return [one[1] for one in found if one]


@pytest.fixture
def wasteful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes may take large tiles."""
    monkeypatch.setattr(box_products, "MOST_WASTE", np.inf)


def test_every_tile_in_every_form(
    wasteful: None, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products take all sizes in turn: a convolution, its two gradients, and ragged edges."""
    turn = itertools.cycle(TILE_SIZES)
    taken: set[TileSize] = set()

    def choose(sizes: Any, counts: TileCounts) -> Any:
        size = next(size for size in turn if counts.fits(size))
        taken.add(size)
        return choose_box_tile([size], counts)

    monkeypatch.setattr(box_products, "choose_box_tile", choose)
    outputs: list[Node] = []
    feeds: Feeds = {}
    for number in range(len(TILE_SIZES)):
        inputs = [
            leaves.input(f"x {number}", (3, 64, 4, 6)), leaves.input(f"w {number}", (72, 64, 2, 3))
        ]  # fmt: skip
        outputs += with_gradients(conv2d(*inputs, padding=1), inputs, seeded)
        feeds |= fed(inputs, seeded)
    program = check_on_emulator(outputs, feeds, precision="bf16", arch=ARCH)
    assert len(reasons(program)) == 3 * len(TILE_SIZES)
    assert all("by boxes, tiles" in reason for reason in reasons(program))
    assert taken == set(TILE_SIZES)


@pytest.mark.parametrize("size", [TileSize(64, 128, 1, 1.0), TileSize(128, 256, 2, 1.0)], ids=str)
def test_blocks_of_a_cluster_bring_halves(
    size: TileSize, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of pixels, of filters and of lines; several tiles for a block, and edges."""
    monkeypatch.setattr(box_products, "TILE_SIZES", (size,))
    monkeypatch.setattr(box_products, "MOST_WASTE", np.inf)
    monkeypatch.setattr(box_product, "MULTIPROCESSORS", 4)
    inputs = [leaves.input("x", (3, 200, 6, 8)), leaves.input("w", (200, 200, 1, 2))]
    outputs = with_gradients(conv2d(*inputs), inputs, seeded)
    program = check_on_emulator(outputs, fed(inputs, seeded), precision="bf16", arch=ARCH)
    sources = [k.source for k in program.kernels.values() if "by boxes, tiles" in k.source]
    assert len(sources) == 3
    assert all("__cluster_dims__(2, 1, 1)" in text for text in sources)
    assert all("gc_tma_multicast_" in text for text in sources)


def forms() -> dict[str, tuple[Node, list[Node]]]:
    """Contractions of every structure that boxes can bring, by name."""

    def leaf(name: str, *extents: int) -> Node:
        return leaves.input(name, extents)

    found: dict[str, tuple[Node, list[Node]]] = {}

    def add(name: str, build: Any, *shapes: tuple[int, ...]) -> None:
        inputs = [leaf(f"{name} {n}", *extents) for n, extents in enumerate(shapes)]
        found[name] = build(*inputs), inputs

    add("1-D", lambda x, w: conv1d(x, w, padding=1), (2, 64, 40), (64, 64, 3))
    add(
        "2-D dilated",
        lambda x, w: conv2d(x, w, padding=2, dilation=2),
        (2, 64, 8, 8),
        (64, 64, 3, 3),
    )
    add("2-D without padding", conv2d, (1, 64, 10, 10), (64, 64, 3, 3))
    add("2-D spread", lambda x, w: conv2d(x, w, dilation=2), (1, 64, 12, 12), (64, 64, 3, 3))
    add("3-D", lambda x, w: conv3d(x, w, padding=1), (1, 64, 4, 4, 4), (64, 64, 3, 3, 3))
    add("groups", lambda x, w: conv2d(x, w, padding=1, groups=2), (1, 128, 8, 8), (128, 64, 3, 3))
    add("dense", linear.dense, (70, 200), (88, 200), (88,))
    add("deep", linear.dense, (64, 2048), (64, 2048), (64,))
    add("batches", lambda a, b: linear.einsum("bij,bkj->bik", a, b), (3, 64, 72), (3, 40, 72))
    return found


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_every_form(precision: str, wasteful: None, seeded: np.random.Generator) -> None:
    outputs: list[Node] = []
    feeds: Feeds = {}
    for out, inputs in forms().values():
        outputs += with_gradients(out, inputs, seeded)
        feeds |= fed(inputs, seeded)
    program = check_on_emulator(outputs, feeds, precision=precision, arch=ARCH)
    found = reasons(program)
    assert len(found) == 3 * len(forms())
    assert all("by boxes, tiles" in reason for reason in found), found
    assert any("pieces" in reason for reason in found)
    wrapper = "gc_wgmma_bf16<" if precision == "bf16" else "gc_wgmma_f16<"
    assert any(f"{wrapper}COLUMNS, true, true>" in k.source for k in program.kernels.values())


def test_what_follows_is_fused_and_stored_16_bytes_at_a_time(seeded: np.random.Generator) -> None:
    """Two convolutions, bias, rectifiers, a pool and a sum of two paths, channels last between."""
    x, bias = leaves.input("x", (2, 8, 16, 16)), leaves.input("bias", (64,))
    u, v = leaves.input("u", (64, 8, 3, 3)), leaves.input("v", (64, 64, 1, 3))
    w = leaves.input("w", (64, 64, 1, 1))
    hidden = pooling.max_pool2d(activations.relu(conv2d(x, u, padding=1)), 2)
    added = activations.tanh(conv2d(hidden, v, bias, padding=(0, 1))) + hidden
    out = conv2d(added, w)
    feeds = fed([x, u, v, w, bias], seeded)
    program = check_on_emulator([out], feeds, precision="bf16", arch=ARCH)
    sources = [k.source for k in program.kernels.values() if "by boxes, tiles" in k.source]
    assert len(sources) == 2
    assert "tanhf(" in sources[0]
    assert "c, first_j + s - 1, first_ni);" in sources[0]
    assert "gc_load_lanes<8>(sums + place)" in sources[0]


POOLS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "max": (conv2d, lambda x: pooling.max_pool2d(x, 2), (3, 64, 8, 12)),
    "mean": (conv2d, lambda x: pooling.mean_pool2d(x, (1, 2)), (2, 64, 5, 8)),
    "wide": (conv2d, lambda x: pooling.max_pool2d(x, (2, 4)), (2, 64, 6, 8)),
    "line": (conv1d, lambda x: pooling.max_pool1d(x, 4), (3, 64, 40)),
    "cube": (conv3d, lambda x: pooling.max_pool3d(x, 2), (1, 64, 4, 6, 4)),
}


def test_windows_are_reduced_where_a_patch_is_finished(
    wasteful: None, seeded: np.random.Generator
) -> None:
    """Pools of one to three dimensions behind biases and rectifiers; tiles overhang all over."""
    outputs: list[Node] = []
    feeds: Feeds = {}
    for name, (convolve, pool, image) in POOLS.items():
        kernel = (72, 64, *(3,) * (len(image) - 2))
        inputs = [leaves.input(f"{name} {n}", s) for n, s in enumerate((image, kernel, (72,)))]
        outputs.append(pool(activations.relu(convolve(*inputs, padding=1))))
        feeds |= fed(inputs, seeded)
    program = check_on_emulator(outputs, feeds, precision="bf16", arch=ARCH)
    sources = [k.source for k in program.kernels.values() if "by boxes, tiles" in k.source]
    assert len(sources) == len(POOLS)
    assert all("all values of these windows stand here" in text for text in sources)


def test_windows_in_patches_are_the_same_bits_as_apart(
    seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step with the argmax that the gradient reads."""
    x, w = leaves.input("x", (2, 64, 8, 16)), leaves.input("w", (64, 64, 1, 3))
    out = pooling.max_pool2d(activations.relu(conv2d(x, w, padding=(0, 1))), 2)
    outputs = with_gradients(out, [x, w], seeded)
    feeds = fed([x, w], seeded)
    options = {"target": "cuda-emu", "precision": "bf16", "arch": ARCH}
    together = compile_graph(outputs, **options)
    monkeypatch.setattr(Products, "refusal", lambda *_: "it was asked for")
    apart = compile_graph(outputs, **options)
    assert len(apart.kernels) > len(together.kernels)
    for ours, theirs in zip(together(**feeds), apart(**feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@op
def shifted(x: Operand, w: Operand) -> Definition:
    """out[n,k,i,j] = sum over c, r, s of x[n,c,i+r,j+s]*w[k,c,r,s]: the equation of conv2d."""
    n, k, i, j, c, r, s = axes("n k i j c r s")
    return define[n, k, i, j](sum_over[c, r, s](x[n, c, i + r, j + s] * w[k, c, r, s]))


def test_an_op_of_ones_own_gets_the_kernel_of_conv2d() -> None:
    x, w = leaves.input("x", (2, 64, 18, 18)), leaves.parameter("w", (64, 64, 3, 3))
    texts = []
    for out in (conv2d(x, w), shifted(x, w)):
        [text] = [f.text for f in generated([out], precision="bf16", boxes=True).files
                  if "by boxes, tiles" in f.text]  # fmt: skip
        body = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
        texts.append(body.replace("shifted", "convolution"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("build", "shapes", "precision", "reason"),
    [
        (conv2d, ((2, 64, 8, 8), (64, 64, 3, 3)), "fp32", "do not have 16 bits"),
        (conv2d, ((2, 3, 16, 16), (64, 3, 3, 3)), "bf16", "multiples of 16 bytes"),
        (lambda x, w: conv2d(x, w, stride=2, padding=1), ((2, 64, 16, 16), (64, 64, 3, 3)), "bf16",
         "products for each that is wanted"),
        (linear.dense, ((8, 64), (64, 64)), "bf16", "products for each that is wanted"),
    ],
)  # fmt: skip
def test_what_boxes_cannot_bring_stays_with_copies(
    build: Any, shapes: Any, precision: str, reason: str
) -> None:
    inputs = [leaves.input(f"input {n}", extents) for n, extents in enumerate(shapes)]
    texts = [f.text for f in generated([build(*inputs)], precision=precision, boxes=True).files]
    [text] = [text for text in texts if "by tiles of" in text]
    assert re.search(rf"; not by boxes: .*{reason}", text)
    assert "gc_tma_load" not in text


@pytest.mark.parametrize(
    ("extent", "size", "patch"),
    [
        (224, 128, (1, 8, 16)), (224, 256, (1, 16, 16)), (56, 128, (2, 8, 8)), (28, 128, (8, 4, 4)),
        (14, 128, (32, 2, 2)), (14, 64, (16, 2, 2)),
    ],
)  # fmt: skip
def test_patches_of_pixels_are_square_and_leave_nothing_over(
    extent: int, size: int, patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides are even on the maps of VGG, so that windows of two by two never straddle patches."""
    monkeypatch.setattr(box_products, "TILE_SIZES", (TileSize(64, size, 1, 1.0),))
    x, w = leaves.input("x", (64, 64, extent, extent)), leaves.input("w", (64, 64, 3, 3))
    schedule = make_schedule(run_passes(Graph((conv2d(x, w, padding=1),)), DType.bfloat16))
    bodies = [routine.body for routine in lower_to_grid(schedule, boxes=True)]
    [product] = [body for body in bodies if isinstance(body, BoxProduct)]
    assert tuple(span.size for span in product.columns.spans) == patch
    assert [d.box for d in product.columns.dimensions] == [*patch, 64]


def test_the_number_of_rounds_decides() -> None:
    """A last round that is nearly empty costs as much as a full one."""

    def chosen(rows: int, columns: int, steps: int) -> tuple[int, int, int]:
        row_tiles = {size: -(-rows // size) for size in (64, 128, 256)}
        column_tiles = {size: -(-columns // size) for size in (64, 128, 192, 256)}
        counts = TileCounts(1, row_tiles, column_tiles, set(column_tiles), steps)
        tile, pieces, _ = choose_box_tile(TILE_SIZES, counts)
        return tile.rows, tile.columns, pieces

    assert chosen(8192, 8192, 64) == (128, 256, 1)
    assert chosen(12544, 512, 8) == (128, 128, 1)  # 392 tiles are three rounds, 196 are two of 1.5
    rows, columns, pieces = chosen(64, 576, 50176)
    tiles = -(-64 // rows) * -(-576 // columns) * pieces
    assert tiles <= 132 < tiles + 132 // 10


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_layer_of_vgg_compiles_to_tensor_copies_and_warpgroup_products(
    precision: str, tmp_path: Path
) -> None:
    emitted = generated(vgg_layer(), precision=precision, boxes=True)
    assert sum("by boxes, tiles" in file.text for file in emitted.files) == 3
    said = compile_with_nvcc(emitted, "sm_90a", tmp_path)
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}
    assert set(re.findall(r"(\d+) bytes stack frame", said)) == {"0"}
    assert "Potential Performance Loss" not in said
    counts = instructions([tmp_path / "whole.cubin"], "sm_90a")
    if counts is None:
        pytest.skip(f"there is no nvdisasm: {INSTALL_HINT}")
    for file in emitted.files:
        if "by boxes, tiles" not in file.text:
            continue
        found = counts[file.name.removesuffix(".cu")]
        assert any(name.startswith("HGMMA") for name in found)
        assert any(name.startswith("UTMALDG.4D") for name in found)
        assert not any(name in ("LDL", "STL") for name in found)
