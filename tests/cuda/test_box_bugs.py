"""Bugs planted into a generated kernel by boxes: a cluster, two groups, more steps than stages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphc import compiler
from graphc.backends.cuda import box_product
from graphc.backends.cuda.emit import Emitted, emit
from graphc.backends.cuda.fault import KernelFault
from graphc.ir.source import SourceFile
from graphc.lower import box_products
from graphc.ops import leaves
from graphc.ops.linear import dense
from graphc.schedule import box_tiles
from graphc.schedule.box_tiles import TileSize
from tests.compiled import assert_close
from tests.cuda.programs import SEEDS, emulator
from tests.cuda.test_planted_bugs import TOO_EARLY

ENDED = "gc_cluster_sync is missing"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of two blocks that take two tiles each, in more steps than there are stages."""
    monkeypatch.setattr(box_products, "TILE_SIZES", (TileSize(128, 64, 2, 1.0),))
    monkeypatch.setattr(box_tiles, "_MOST_PIECES", 1)
    monkeypatch.setattr(box_tiles, "_MOST_STAGES", 3)
    monkeypatch.setattr(box_product, "MULTIPROCESSORS", 2)


def run(bug: tuple[str, str], patch: pytest.MonkeyPatch, seeds: Sequence[int] = SEEDS) -> list[str]:
    """What the emulator says of a product with this replacement, in several orders of threads."""

    def emit_with_bug(*given: Any) -> Emitted:
        made = emit(*given)
        files = tuple(
            SourceFile(f.name, f.text.replace(*bug) if "by boxes, tiles" in f.text else f.text)
            for f in made.files
        )
        assert bug == ("", "") or files != made.files, f"the kernel has no {bug[0]!r}"
        return replace(made, files=files)

    patch.setattr(compiler, "emit_cuda", emit_with_bug)
    generator = np.random.default_rng(3)
    feeds = {n: generator.normal(size=s).astype("f4") for n, s in SHAPES.items()}
    inputs = [leaves.input(name, extents) for name, extents in SHAPES.items()]
    program = compiler.compile_graph(
        [dense(*inputs)], target="cuda-emu", precision="bf16", arch="sm_90a"
    )
    said = []
    for seed in seeds:
        emulator().seed = seed
        try:
            [got] = program(**feeds)
            assert_close(got, feeds["a"].astype(float) @ feeds["b"].astype(float).T, 1e-2)
            said.append("")
        except KernelFault as caught:
            said.append(caught.fault.what)
    return said


SHAPES = {"a": (500, 320), "b": (60, 320)}
RELEASE = "gc_mbarrier_arrive_at(empty + before, thread % 128)"


def test_without_a_bug_nothing_is_said(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(("", ""), monkeypatch) == ["", "", ""]


def test_halves_of_the_same_columns_are_wrong_numbers(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="relative distance"):
        run((" + 32*rank", ""), monkeypatch)


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (("expect_tx(full + stage, STAGE_BYTES)", "expect_tx(full + stage, STAGE_BYTES - 8192)"),
         ("deadlock", *TOO_EARLY)),
        (("expect_tx(full + stage, STAGE_BYTES)", "expect_tx(full + stage, STAGE_BYTES + 8192)"),
         ("deadlock",)),
        ((f"if (thread % 128 < CLUSTER) {RELEASE};", ""), ("deadlock",)),
        ((RELEASE, "gc_mbarrier_arrive_at(empty + before, rank)"), ("deadlock", *TOO_EARLY)),
        (("int stage = 0, phase = 1;", "int stage = 0, phase = 0;"), ("deadlock",)),
        (("int stage = 0, phase = 0;", "int stage = 0, phase = 1;"), ("deadlock", *TOO_EARLY)),
        (("full + stage, 3, ", "full + stage, 1, "), ("deadlock",)),
        (("full + stage, 3, ", "full + stage, 5, "), ("for block 2 of a cluster of 2",)),
        (("gc_wgmma_wait_group<1>", "gc_wgmma_wait_group<2>"), ("may still read it",)),
        (("  gc_barrier_sync(1 + group, 128);  // nobody", "  // nobody"), ("race:",)),
        (("gc_register_budget_decrease<40>();", ""), ("wait for gc_register_budget_increase",)),
        (("gc_register_budget_decrease<40>", "gc_register_budget_decrease<48>"),
         ("wait for gc_register_budget_increase",)),
        (("  gc_cluster_sync();  // no block", "  // no block"), (ENDED,)),
    ],
    ids=str,
)  # fmt: skip
def test_a_bug_is_caught_in_every_order(
    bug: tuple[str, str], said: tuple[str, ...], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in run(bug, monkeypatch):
        assert any(one in words for one in said), words
