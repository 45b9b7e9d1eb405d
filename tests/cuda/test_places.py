"""Scatters through an argmax of a product's results, which its kernel puts in place itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphc import compiler
from graphc.backends.cuda.emit import Emitted, emit
from graphc.compiler import compile_graph
from graphc.ir.graph import Graph, Node
from graphc.ir.source import SourceFile
from graphc.lower import box_products
from graphc.ops import activations, leaves, pooling
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.pooling import max_pool2d
from graphc.passes.pipeline import run_passes
from graphc.schedule import products
from graphc.schedule.plan import make_schedule
from tests.compiled import with_gradients
from tests.cuda.programs import Feeds, check_on_emulator, wrong_kernels
from tests.cuda.test_tile_sums import ARCH, vgg16

PRECISIONS = [("fp32", None), ("tf32", None), ("bf16", None), ("bf16", ARCH)]
Pool = Callable[[Node], Node]


def layers(
    pool: Pool,
    image: tuple[int, ...],
    channels: int = 12,
    stride: int = 1,
    depth: int = 16,
    taps: int = 3,
) -> tuple[list[Node], list[Node]]:
    """A convolution, a pool of its rectified results and a convolution, with gradients."""
    rank = len(image) - 2
    convolve: Callable[..., Node] = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    x, b = leaves.input("x", image), leaves.input("b", (channels,))
    v = leaves.input("v", (channels, image[1], *(3,) * rank))
    w = leaves.input("w", (depth, channels, *(taps,) * rank))
    hidden = pool(activations.relu(convolve(x, v, b, padding=1)))
    inputs = [x, v, b, w]
    out = convolve(hidden, w, padding=taps // 2, stride=stride)
    return with_gradients(out, inputs, np.random.default_rng(1)), inputs


def fed(inputs: Sequence[Node], generator: np.random.Generator) -> Feeds:
    return {n.label: generator.normal(size=n.shape).astype("f4") / 4 for n in inputs}


def placing(program: Any) -> list[str]:
    """The kernels that put values in place."""
    return [n for n, k in program.kernels.items() if " in place by windows of " in k.strategy]


FORMS: dict[str, tuple[Pool, tuple[int, ...]]] = {
    "pairs": (lambda x: max_pool2d(x, 2), (3, 4, 6, 10)),
    "2 x 4": (lambda x: max_pool2d(x, (2, 4)), (2, 4, 8, 16)),
    "along one dimension": (lambda x: max_pool2d(x, (1, 2)), (2, 4, 5, 8)),
    "nine": (lambda x: max_pool2d(x, 3), (2, 4, 9, 12)),
    "a line": (lambda x: pooling.max_pool1d(x, 4), (3, 4, 40)),
    "a cube": (lambda x: pooling.max_pool3d(x, 2), (2, 4, 6, 6, 8)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("summed", [False, True], ids=["alone", "with its sum"])
def test_every_form(
    name: str, summed: bool, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, image = FORMS[name]
    if summed:
        monkeypatch.setattr(products, "LONG_SUM", 0)
    outputs, inputs = layers(pool, image)
    program = check_on_emulator(outputs, fed(inputs, seeded), [name] * 5)
    [kernel] = placing(program)
    assert (" in its tiles" in program.kernels[kernel].strategy) == summed
    stored = {buffer.name for buffer in program.schedule.buffers}
    assert ("d channel_sum at maxima" in stored) != summed  # its sum is all that would read it


@pytest.mark.parametrize(("precision", "arch"), PRECISIONS, ids=lambda v: str(v))
def test_the_same_bits_as_apart(
    precision: str, arch: str | None, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pools, tiles that overhang; a value is put in place as it is rounded."""
    monkeypatch.setattr(box_products, "MOST_WASTE", np.inf)
    outputs, inputs = layers(lambda x: max_pool2d(x, 2), (3, 8, 12, 20), 64, depth=72, taps=1)
    feeds = fed(inputs, seeded)
    options = {"target": "cuda-emu", "precision": precision, "arch": arch}
    together = compile_graph(outputs, **options)
    [kernel] = placing(together)
    assert ("by boxes, tiles" in together.kernels[kernel].source) == (arch is not None)
    assert "gc_store_lanes(d_channel_sum" in together.kernels[kernel].source
    monkeypatch.setattr(products, "scatter_refusal", lambda *_, **__: "it was asked for")
    apart = compile_graph(outputs, **options)
    assert placing(apart) == []
    assert any(
        "; not in d_max_pool: it was asked for" in k.strategy for k in apart.kernels.values()
    )
    assert len(together.kernels) == len(apart.kernels) - 1
    for ours, theirs in zip(together(**feeds), apart(**feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("precision", "arch"), PRECISIONS, ids=lambda v: str(v))
def test_against_the_oracle(
    precision: str, arch: str | None, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of a pool that are far from each other, so that rounding moves no maximum."""
    monkeypatch.setattr(box_products, "MOST_WASTE", np.inf)
    monkeypatch.setattr(products, "LONG_SUM", 0)
    x, w = leaves.input("x", (3, 64, 10, 14)), leaves.input("w", (72, 64, 3, 3))
    b = leaves.input("b", (64,))
    hidden = max_pool2d(x + b[:, None, None], 2)
    outputs = with_gradients(conv2d(hidden, w, padding=1), [x, w, b], seeded)
    feeds = fed([x, w, b], seeded)
    steps = seeded.permutation(np.arange(-20, 20))[:4].reshape(2, 2)
    feeds["x"] = np.tile(steps, (3, 64, 5, 7)).astype("f4") / 10
    program = check_on_emulator(outputs, feeds, precision=precision, arch=arch)
    assert len(placing(program)) == 1


def test_depth_in_pieces(seeded: np.random.Generator) -> None:
    """The second kernel, which adds up the pieces, puts in place what it finds."""
    outputs, inputs = layers(lambda x: max_pool2d(x, 2), (1, 4, 8, 8), 16, depth=256)
    program = check_on_emulator(outputs, fed(inputs, seeded))
    [kernel] = placing(program)
    assert "pieces of the depth" in program.kernels[kernel].source


def test_phases_of_a_stride(seeded: np.random.Generator) -> None:
    outputs, inputs = layers(lambda x: max_pool2d(x, 2), (2, 4, 16, 16), stride=2)
    assert len(placing(check_on_emulator(outputs, fed(inputs, seeded)))) == 1


ALONE: list[tuple[str, Pool, tuple[int, ...], str]] = [
    ("overlapping", lambda x: max_pool2d(x, 3, stride=2), (2, 4, 9, 9), ""),
    ("left over", lambda x: max_pool2d(x, 2), (2, 4, 7, 8), "windows leave some of it over"),
]


@pytest.mark.parametrize(("name", "pool", "image", "reason"), ALONE, ids=[a[0] for a in ALONE])
def test_other_scatters_keep_a_kernel(
    name: str, pool: Pool, image: tuple[int, ...], reason: str, seeded: np.random.Generator
) -> None:
    outputs, inputs = layers(pool, image)
    program = check_on_emulator(outputs, fed(inputs, seeded), [name] * 5)
    assert placing(program) == []
    assert any(reason in kernel.strategy for kernel in program.kernels.values())


def test_values_that_are_made_of_windows(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (2, 4, 8, 8)), leaves.input("w", (12, 4, 3, 3))
    out = activations.tanh(max_pool2d(activations.relu(conv2d(x, w, padding=1)), 2))
    program = check_on_emulator(with_gradients(out, [x, w], seeded), fed([x, w], seeded))
    assert placing(program) == []
    reason = "; not in convolution_forward: there its values are made of windows"
    assert program.kernels["d_convolution"].strategy.endswith(reason)


def test_a_processor_reads_patches_instead() -> None:
    outputs, _ = layers(lambda x: max_pool2d(x, 2), (3, 4, 6, 10))
    program = compile_graph(outputs)
    assert placing(program) == []


@pytest.mark.parametrize(
    ("precision", "arch"), [p for p in PRECISIONS if p[0] != "tf32"], ids=lambda v: str(v)
)
def test_kernel_by_kernel(
    precision: str, arch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check that runs on a GPU: every element of a scatter, those that are 0 too."""
    monkeypatch.setattr(products, "LONG_SUM", 0)
    outputs, _ = layers(lambda x: max_pool2d(x, 2), (3, 8, 12, 20), 64, depth=72)
    program = compile_graph(outputs, target="cuda-emu", precision=precision, arch=arch)
    assert wrong_kernels(program, precision) == {}
    assert placing(program)


BUGS = [
    ("((int)(3) ==", "((int)(2) =="),
    ("    gc_store_lanes(d_channel_sum", "    if (part) break;\n//"),
]


@pytest.mark.parametrize("place", range(4))
def test_every_place_is_looked_at(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that forgets one place of the windows is told from the right one."""

    def emit_with_bug(*given: Any) -> Emitted:
        made = emit(*given)
        bug = f"(int)({place}) ==", "(int)(4) =="
        files = tuple(SourceFile(f.name, f.text.replace(*bug)) for f in made.files)
        assert files != made.files
        return replace(made, files=files)

    monkeypatch.setattr(compiler, "emit_cuda", emit_with_bug)
    outputs, _ = layers(lambda x: max_pool2d(x, 2), (3, 4, 6, 10))
    program = compile_graph(outputs, target="cuda-emu")
    assert set(wrong_kernels(program, "fp32")) & set(placing(program))


def test_pools_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of five: the gradient of the last pool comes from a dense layer through a reshape."""
    schedule, emitted = vgg16(128)
    placed = [plan.name for plan in schedule.kernels if plan.placed]
    assert placed == [f"conv{n}_1_dinput" for n in (5, 4, 3, 2)]
    [last] = [plan for plan in schedule.kernels if plan.name == "relu5_3_dinput_2"]
    assert last.reason.endswith("; not in relu5_3_dinput: it is no product")
    labels = [buffer.name for buffer in schedule.buffers]
    assert labels.count("d channel_sum at maxima") == 1
    monkeypatch.setattr(products, "scatter_refusal", lambda *_, **__: "it was asked for")
    apart, others = vgg16(128)
    assert not any(plan.placed for plan in apart.kernels)
    for name, one in emitted.items():
        assert len(one.launches) == len(others[name].launches) - 4
        assert len(one.launches) == {"sm_80": 88, ARCH: 86}[name]
    assert schedule.arena_bytes <= apart.arena_bytes


def test_who_else_reads_a_value_finds_it_stored(seeded: np.random.Generator) -> None:
    outputs, _ = layers(lambda x: max_pool2d(x, 2), (3, 4, 6, 10))
    schedule = make_schedule(run_passes(Graph(tuple(outputs))))
    [plan] = [plan for plan in schedule.kernels if plan.placed]
    assert [node.label for node in plan.stored] == ["d channel_sum at maxima", "d channel_sum"]
