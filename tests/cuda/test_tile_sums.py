"""Sums of a product's results that begin in its tiles, as bias gradients do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphc import compiler
from graphc.backends.cuda.emit import Emitted, emit
from graphc.backends.cuda.fault import KernelFault
from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.inspect.emitted import emitted_for
from graphc.inspect.subject import model_subject
from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import Schedule
from graphc.ir.source import SourceFile
from graphc.ir.types import DType
from graphc.lower import box_products, teams, tile_sums
from graphc.ops import activations, leaves, linear, reductions
from graphc.ops.convolution import conv2d, conv_transpose2d
from graphc.ops.pooling import max_pool2d, mean_pool2d
from graphc.passes import split
from graphc.passes.pipeline import run_passes
from graphc.schedule import products
from graphc.schedule.box_tiles import TILE_SIZES, TileCounts, TileSize, choose_box_tile
from graphc.schedule.plan import make_schedule
from graphc.train.network import build_model, make_optimizer
from tests.compiled import assert_close, distance, with_gradients
from tests.cuda.programs import SEEDS, Feeds, check_on_emulator, emulator, generated, wrong_kernels
from tests.cuda.test_boxes import shifted

ARCH = "sm_90a"
PRECISIONS = [("fp32", None), ("tf32", None), ("bf16", None), ("bf16", ARCH)]
Build = Callable[..., list[Node]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays are summed in tiles too, and small shapes may take large tiles."""
    monkeypatch.setattr(products, "LONG_SUM", 0)
    monkeypatch.setattr(box_products, "MOST_WASTE", np.inf)


def fed(inputs: list[Node], generator: np.random.Generator) -> Feeds:
    return {n.label: generator.normal(size=n.shape).astype("f4") / 4 for n in inputs}


def in_tiles(program: Any) -> list[str]:
    """The kernels that begin a sum in their tiles."""
    return [n for n, k in program.kernels.items() if " in its tiles" in k.strategy]


def layer(x: Node, w: Node, b: Node) -> Node:
    return activations.tanh(conv2d(x, w, b, padding=1))


def pooled(x: Node, w: Node, b: Node) -> list[Node]:
    values = layer(x, w, b)
    return [max_pool2d(values, 2), reductions.sum(values, (0, 2, 3))]


FORMS: dict[str, tuple[Build, tuple[tuple[int, ...], ...]]] = {
    "channels": (
        lambda x, w, b: [reductions.sum(layer(x, w, b), (0, 2, 3)), layer(x, w, b)],
        ((3, 64, 5, 7), (72, 64, 3, 3), (72,)),
    ),
    "nothing else is stored": (
        lambda x, w, b: [reductions.sum(layer(x, w, b), (0, 2, 3))],
        ((2, 64, 6, 9), (136, 64, 3, 3), (136,)),
    ),
    "rows": (
        lambda x, w: [reductions.sum(activations.tanh(linear.einsum("ki,ni->kn", x, w)), 1)],
        ((70, 64), (200, 64)),
    ),
    "columns": (
        lambda x, w: [reductions.sum(activations.tanh(linear.dense(x, w)), 0)],
        ((150, 64), (80, 64)),
    ),
    "batches": (
        lambda a, b: [
            reductions.sum(activations.tanh(linear.einsum("bij,bkj->bik", a, b)), (0, 1))
        ],
        ((3, 64, 72), (3, 40, 72)),
    ),
    "two axes": (
        lambda x, w: [reductions.sum(activations.tanh(linear.einsum("ni,iab->nab", x, w)), 0)],
        ((150, 64), (64, 8, 9)),
    ),
    "two axes turned": (
        lambda x, w: [reductions.sum(activations.tanh(linear.einsum("abi,ni->nab", w, x)), 0)],
        ((150, 64), (3, 24, 64)),
    ),
    "phases": (
        lambda x, w: [
            reductions.sum(activations.tanh(conv_transpose2d(x, w, stride=2)), (0, 2, 3))
        ],
        ((2, 64, 5, 5), (64, 24, 2, 2)),
    ),
    "pooled too": (pooled, ((3, 64, 6, 10), (72, 64, 3, 3), (72,))),
}  # fmt: skip


@pytest.mark.parametrize(("precision", "arch"), PRECISIONS, ids=lambda v: str(v))
def test_every_form(precision: str, arch: str | None, seeded: np.random.Generator) -> None:
    outputs: list[Node] = []
    feeds: Feeds = {}
    names: list[str] = []
    for name, (build, shapes) in FORMS.items():
        inputs = [leaves.input(f"{name} {n}", extents) for n, extents in enumerate(shapes)]
        found = build(*inputs)
        outputs, names = outputs + found, names + [name] * len(found)
        feeds |= fed(inputs, seeded)
    program = check_on_emulator(outputs, feeds, names, precision=precision, arch=arch)
    assert len(in_tiles(program)) == len(FORMS)
    boxes = sum("by boxes, tiles" in program.kernels[n].source for n in in_tiles(program))
    assert boxes >= (len(FORMS) - 2 if arch is not None else 0)


def chain(x: Node, u: Node, b: Node, v: Node, c: Node) -> Node:
    """Two layers, the first of them pooled."""
    hidden = mean_pool2d(activations.tanh(conv2d(x, u, b, padding=1)), 2)
    return activations.tanh(conv2d(hidden, v, c, padding=1))


def gradients_of_chain(
    seeded: np.random.Generator, channels: int = 64
) -> tuple[list[Node], list[Node]]:
    shapes = ((3, 8, 10, 14), (channels, 8, 3, 3), (channels,), (72, channels, 3, 3), (72,))
    inputs = [leaves.input(name, s) for name, s in zip("xubvc", shapes, strict=True)]
    return with_gradients(chain(*inputs), inputs, seeded), inputs


@pytest.mark.parametrize(("precision", "arch"), PRECISIONS, ids=lambda v: str(v))
@pytest.mark.parametrize("team", [False, True], ids=["a thread each", "teams"])
def test_bias_gradients(
    precision: str, arch: str | None, team: bool, seeded: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whole sums, and sums that a pass has split into partial sums of images."""
    if team:
        monkeypatch.setattr(teams, "FEW_TERMS", 1)
        monkeypatch.setattr(tile_sums, "FEW_TERMS", 1)
        monkeypatch.setattr(split, "_LONG_SUM", 1)
    outputs, inputs = gradients_of_chain(seeded)
    program = check_on_emulator(outputs, fed(inputs, seeded), precision=precision, arch=arch)
    [forward] = in_tiles(program)
    plan = next(plan for plan in program.schedule.kernels if plan.name == forward)
    assert len(plan.summed) == 1 + team
    assert ("threads share the" in program.kernels[forward].source) == team


def test_partial_sums_of_pieces(
    seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine images in pieces of five and four become tiles."""
    monkeypatch.setattr(split, "_LONG_SUM", 1)
    monkeypatch.setattr(split, "_PIECES", 2)
    x, w = leaves.input("x", (9, 8, 5, 6)), leaves.input("w", (24, 8, 3, 3))
    outputs = [reductions.sum(activations.tanh(conv2d(x, w)), (0, 2, 3))]
    program = check_on_emulator(outputs, fed([x, w], seeded))
    [plan] = program.schedule.kernels
    assert [node.shape for node in plan.summed] == [(2, 24), (24,)]


@pytest.mark.parametrize("arch", [None, ARCH])
def test_the_sum_is_of_values_as_they_are_rounded(
    arch: str | None, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart the sum reads an array of 16 bits; not to round first would be wrong by 1e-3."""
    x, w = leaves.input("x", (3, 64, 7, 9)), leaves.input("w", (64, 64, 1, 3))
    values = activations.tanh(conv2d(x, w))
    outputs = [reductions.sum(values, (0, 2, 3)), conv2d(values, w)]
    feeds = fed([x, w], seeded)
    options = {"target": "cuda-emu", "precision": "bf16", "arch": arch}
    together = compile_graph(outputs, **options)
    monkeypatch.setattr(products, "LONG_SUM", 1 << 40)
    apart = compile_graph(outputs, **options)
    assert in_tiles(together)
    assert not in_tiles(apart)
    (total, after), (wanted, same) = together(**feeds), apart(**feeds)
    assert after.tobytes() == same.tobytes()
    assert_close(total, wanted, 2e-6)


def test_every_tile_of_boxes(seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over rows and over columns of each size, with tiles that overhang on all sides."""
    sizes = iter([size for size in TILE_SIZES for _ in range(2)])
    taken: set[TileSize] = set()

    def choose(legal: Any, counts: TileCounts) -> Any:
        size = next(sizes)
        taken.add(size)
        return choose_box_tile([size], counts)

    monkeypatch.setattr(box_products, "choose_box_tile", choose)
    outputs: list[Node] = []
    feeds: Feeds = {}
    for number in range(len(TILE_SIZES)):
        shapes = ((3, 64, 6, 6), (72, 64, 1, 2), (100, 64), (150, 64))
        x, w, a, b = (leaves.input(f"{n} {number}", s) for n, s in enumerate(shapes))
        outputs.append(reductions.sum(activations.tanh(conv2d(x, w)), (0, 2, 3)))
        outputs.append(reductions.sum(activations.tanh(linear.einsum("ki,ni->kn", a, b)), 1))
        feeds |= fed([x, w, a, b], seeded)
    program = check_on_emulator(outputs, feeds, precision="bf16", arch=ARCH)
    assert taken == set(TILE_SIZES)
    assert len(in_tiles(program)) == 2 * len(TILE_SIZES)


@pytest.mark.parametrize("boxes", [False, True])
def test_an_op_of_ones_own_is_summed_like_conv2d(boxes: bool) -> None:
    x, w = leaves.input("x", (2, 64, 18, 18)), leaves.parameter("w", (64, 64, 3, 3))
    texts = []
    for out in (conv2d(x, w), shifted(x, w)):
        files = generated([reductions.sum(out, (0, 2, 3))], precision="bf16", boxes=boxes).files
        [text] = [f.text for f in files if "sums of all tiles" in f.text]
        body = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
        texts.append(body.replace("shifted", "convolution"))
    assert texts[0] == texts[1]


REFUSED: dict[str, tuple[Build, tuple[tuple[int, ...], ...], str]] = {
    "images": (
        lambda x, w, b: [reductions.sum(layer(x, w, b), (2, 3))],
        ((2, 8, 6, 6), (24, 8, 3, 3), (24,)), "keeps other axes than those of one factor",
    ),
    "a second sum": (
        lambda x, w: [
            reductions.sum(linear.dense(x, w), 0), reductions.sum(linear.dense(x, w), 1)
        ],
        ((40, 24), (48, 24)), "it reduces others",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_sums_keep_a_kernel(name: str, seeded: np.random.Generator) -> None:
    build, shapes, reason = REFUSED[name]
    inputs = [leaves.input(f"input {n}", extents) for n, extents in enumerate(shapes)]
    program = check_on_emulator(build(*inputs), fed(inputs, seeded))
    assert any(f"; not in {first}: " in k.strategy and reason in k.strategy
               for k in program.kernels.values() for first in program.kernels)  # fmt: skip


def test_small_and_double_sums_keep_a_kernel(
    seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [leaves.input("x", (40, 24), "float64"), leaves.input("w", (48, 24), "float64")]
    [total] = [reductions.sum(linear.dense(*inputs), 0)]
    feeds = {n.label: seeded.normal(size=n.shape) for n in inputs}
    assert in_tiles(check_on_emulator([total], feeds)) == []
    monkeypatch.undo()
    outputs, _ = gradients_of_chain(seeded)
    schedule = make_schedule(run_passes(Graph(tuple(outputs))))
    assert not any(plan.summed for plan in schedule.kernels)
    assert any("elements are soon read again" in plan.reason for plan in schedule.kernels)


@pytest.mark.parametrize(
    ("precision", "arch"), [p for p in PRECISIONS if p[0] != "tf32"], ids=lambda v: str(v)
)
def test_kernel_by_kernel(precision: str, arch: str | None, seeded: np.random.Generator) -> None:
    """The check that runs on a GPU takes partial sums and sums of tiles like everything else."""
    outputs, _ = gradients_of_chain(seeded)
    program = compile_graph(outputs, target="cuda-emu", precision=precision, arch=arch)
    assert wrong_kernels(program, precision) == {}
    assert in_tiles(program)


# ---- VGG16 ---------------------------------------------------------------------------------------


def vgg16(batch: int) -> tuple[Schedule, dict[str, Emitted]]:
    """The step of VGG16 in bf16, and its CUDA for both architectures."""
    optimizer = make_optimizer("sgd", None, None, None)
    subject = model_subject(build_model("vgg16", {}), batch, optimizer, precision="bf16")
    schedule = make_schedule(run_passes(subject.step, DType.bfloat16, copies=True))
    return schedule, {name: emitted_for(name, schedule, "bf16") for name in ("sm_80", ARCH)}


def test_biases_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of thirteen convolutions: the last one's gradient comes through a reshape."""
    monkeypatch.undo()
    schedule, emitted = vgg16(128)
    summing = [plan for plan in schedule.kernels if plan.summed]
    assert len(summing) == 12
    assert all(plan.name.endswith("_dinput") for plan in summing)
    assert not any("partial" in plan.name for plan in schedule.kernels)
    monkeypatch.setattr(products, "LONG_SUM", 1 << 40)
    apart, others = vgg16(128)
    assert len([plan for plan in apart.kernels if "dbias_partial" in plan.name]) == 12
    for name, one in emitted.items():
        assert len(one.launches) == len(others[name].launches) - 12
        sums = [each for each in one.launches if each.kernel.endswith("_dinput_finish")]
        assert max(each.workspace for each in sums) < 26_000_000
        assert one.workspace_bytes == others[name].workspace_bytes
    assert schedule.arena_bytes < apart.arena_bytes + 100_000


# ---- Bugs ----------------------------------------------------------------------------------------


def said(bug: tuple[str, str], arch: str | None, patch: pytest.MonkeyPatch) -> list[str]:
    """What the emulator, or the comparison, says of a sum whose kernel is changed."""

    def emit_with_bug(*given: Any) -> Emitted:
        made = emit(*given)
        files = tuple(SourceFile(f.name, f.text.replace(*bug)) for f in made.files)
        assert files != made.files, f"no kernel has {bug[0]!r}"
        return replace(made, files=files)

    patch.setattr(compiler, "emit_cuda", emit_with_bug)
    x, w = leaves.input("x", (3, 64, 5, 6)), leaves.input("w", (72, 64, 3, 3))
    feeds = fed([x, w], np.random.default_rng(3))
    total = reductions.sum(conv2d(x, w, padding=1), (0, 2, 3))
    [wanted] = evaluate([total], feeds, float_dtype="float64")
    program = compiler.compile_graph([total], target="cuda-emu", precision="bf16", arch=arch)
    found = []
    for seed in SEEDS:
        emulator().seed = seed
        try:
            [got] = program(**feeds)
            found.append("" if distance(got, wanted) < 1e-2 else "wrong")
        except KernelFault as caught:
            found.append(caught.fault.what)
    return found


BUGS = [
    (None, ("total += gc_shfl_xor(total, 2);", ""), "wrong"),
    (None, ("gc_syncthreads();  // all values stand", "// all values stand"), "race"),
    (None, (" && column < 72", ""), "out of bounds"),
    (ARCH, ("            gc_store_lanes(sums + place, gc_lanes<float, 4>{});\n", ""), "wrong"),
    (ARCH, ("gc_barrier_sync(1 + group, 128);  // all", "// all"), "race"),
    (ARCH, (" && !(k >= 72)", ""), "out of bounds"),
]


@pytest.mark.parametrize(("arch", "bug", "message"), BUGS, ids=lambda v: str(v)[:30])
def test_planted_bugs(
    arch: str | None, bug: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(message in one for one in said(bug, arch, monkeypatch)), bug
