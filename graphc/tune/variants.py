"""The ways to compute one kernel that tuning tries: algorithms, then blocks around the best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from graphc.ir.blocks import BY_RULE, ContractionBlocks, TileBlocks
from graphc.ir.loops import BlockSizes, Contraction, TileProduct
from graphc.ir.routine import Routine
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import Axis, element_count
from graphc.lower.routines import lower
from graphc.schedule.blocking import RESIDENT_BYTES, register_rows
from graphc.schedule.choose import MAX_ERROR, legal_tiles, tile_error, tile_type
from graphc.schedule.products import tile_refusal
from graphc.schedule.scatters import scatter_fits
from graphc.tune.kernel import kernel_source

ROUNDS = ("algorithm", "tasks", "registers and packing")
_WORKSPACE = 64 << 20  # bytes that a variant may need, or twice what the untuned kernel does


@dataclass(frozen=True)
class Variant:
    """Tiles by ``algorithms``, or the sum as it stands where there are none, and its blocks."""

    algorithms: tuple[TileAlgorithm, ...] = ()
    contraction_blocks: ContractionBlocks = BY_RULE
    tile_blocks: TileBlocks | None = None

    def applied(self, plan: KernelPlan, reason: str) -> KernelPlan:
        """The plan computed in this way."""
        return replace(
            plan, strategy="tiles" if self.algorithms else "contraction", reason=reason,
            algorithms=self.algorithms, contraction_blocks=self.contraction_blocks,
            tile_blocks=self.tile_blocks,
        )  # fmt: skip


def variant_of(plan: KernelPlan) -> Variant:
    """How a plan is computed."""
    return Variant(plan.algorithms, plan.contraction_blocks, plan.tile_blocks)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A variant of one kernel as it would run."""

    variant: Variant
    routine: Routine
    block: BlockSizes

    @cached_property
    def emitted(self) -> tuple[str, int, int]:
        """C text, bytes of its shared and of its per-thread workspace."""
        return kernel_source(self.routine, self.block)

    @property
    def source(self) -> str:
        """C text; variants with the same text are the same."""
        return self.emitted[0]

    @property
    def body(self) -> Contraction | TileProduct:
        """The product."""
        body = self.routine.body
        assert isinstance(body, Contraction | TileProduct)
        return body

    @property
    def arithmetic(self) -> str:
        """What decides the roundings; variants that agree in it give the same bits."""
        body = self.body
        if isinstance(body, Contraction):
            return f"direct: axis {body.split} cut {body.cut}, {body.pieces} pieces"
        if body.result == "positions":
            order = f": sums of {body.blocks.tiles} tiles" if body.sums else ""
            return f"{self._algorithms}{order}"
        return f"{self._algorithms}: {body.blocks.tiles} tiles, {body.blocks.pieces} pieces"

    @property
    def _algorithms(self) -> str:
        return " x ".join(f"F({a.outputs},{a.taps})" for a in self.variant.algorithms)

    @property
    def text(self) -> str:
        """For people."""
        body = self.body
        if isinstance(body, Contraction):
            panels = "none" if body.resident == "none" else f"the {body.resident}"
            return (
                f"direct, depth {_block_depth(body)}, tasks of "
                f"{body.row_block} rows x {body.column_panels} panels, {panels} packed once"
            )
        blocks = body.blocks
        if body.result == "positions":
            task = f"tasks of {blocks.tiles} tiles x {blocks.columns} columns"
        else:
            task = f"{blocks.tiles} tiles, tasks of {blocks.rows} rows x {blocks.columns} columns"
            task += f" x {blocks.pieces} pieces" if blocks.pieces > 1 else ""
        return f"{self._algorithms}, {task}, registers {blocks.register_rows} x {blocks.vectors}"


class Space:
    """The candidates of one kernel, which stands ``alone`` in its schedule."""

    def __init__(self, single: Schedule, block: BlockSizes, exact: bool) -> None:
        self.single, self.block, self.exact = single, block, exact
        (self.plan,) = single.kernels
        self.leader = self.plan.nodes[0]
        self.default = self.candidate(variant_of(self.plan))

    def candidate(self, variant: Variant) -> Candidate:
        """A variant lowered."""
        plan = variant.applied(self.plan, "")
        (routine,) = lower(replace(self.single, kernels=(plan,)), self.block)
        return Candidate(variant, routine, self.block)

    def proposals(self, best: Candidate, round_number: int) -> list[Candidate]:
        """What is worth trying next, given the best so far; different from it, and legal."""
        variants: Iterable[Variant]
        if round_number == 0:
            variants = self._algorithms()
        elif best.variant.algorithms:
            variants = self._tiles(best, registers=round_number == 2)
        else:
            variants = self._contractions(best, packing=round_number == 2)
        found: dict[str, Candidate] = {}
        for variant in variants:
            candidate = self.candidate(variant)
            if candidate.source != best.source and self._is_legal(candidate):
                found.setdefault(candidate.source, candidate)
        return list(found.values())

    def legal_algorithms(self) -> tuple[tuple[TileAlgorithm, ...], ...]:
        """The tile algorithms within the limit on errors; none where exact sums are asked for.

        Windows that the kernel reduces, or scatters from, lie within their tiles.
        """
        dtype = tile_type(self.leader)
        if self.exact or dtype is None:
            return ()
        found = legal_tiles(self.leader.op_equation(), dtype, self.block)
        return tuple(algorithms for algorithms in found if self._holds_windows(algorithms))

    def _holds_windows(self, algorithms: tuple[TileAlgorithm, ...]) -> bool:
        """Whether windows that the kernel reduces, or scatters from, lie within tiles."""
        leader = self.leader
        return all(
            not tile_refusal(leader, algorithms, pool) for pool in self.plan.pooled[:1]
        ) and all(
            scatter_fits(leader, operand, scatter, algorithms)
            for operand, scatter in self.plan.scattered
        )

    def error(self, candidate: Candidate) -> float | None:
        """Bound on the relative error of a tiled product; None for a direct sum."""
        body, variant = candidate.body, candidate.variant
        if isinstance(body, Contraction):
            return None
        equation, dtype = self.leader.op_equation(), body.dtype
        if body.result == "positions":
            return tile_error(equation, variant.algorithms, dtype)
        return tile_error(equation, variant.algorithms, dtype, body.blocks.tiles)

    def _algorithms(self) -> Iterator[Variant]:
        if not self.plan.pooled and not self.plan.scattered and not self.plan.summed:
            yield Variant()  # plain sums know no windows, and add up no columns
        yield from (Variant(algorithms) for algorithms in self.legal_algorithms())

    def _is_legal(self, candidate: Candidate) -> bool:
        """Whether errors and memory stay within their limits."""
        error = self.error(candidate)
        if error is not None and error > MAX_ERROR[candidate.body.dtype]:
            return False
        body = candidate.body
        if isinstance(body, Contraction) and candidate.variant.contraction_blocks.resident:
            lanes = {"rows": body.rows.lanes, "columns": body.columns.lanes, "none": ()}
            side = lanes[body.resident]
            if _count((*body.batch, *body.depth, *side)) * body.dtype.size > RESIDENT_BYTES:
                return body.resident == "none"
        _, shared, private = candidate.emitted
        _, default_shared, default_private = self.default.emitted
        return shared + private <= max(_WORKSPACE, 2 * (default_shared + default_private))

    def _contractions(self, best: Candidate, packing: bool) -> Iterator[Variant]:
        body, blocks = best.body, best.variant.contraction_blocks
        assert isinstance(body, Contraction)
        changes: list[dict[str, object]]
        if packing:
            changes = [{"resident": side} for side in ("rows", "columns", "none")]
            depth = _block_depth(body)
            changes += [{"depth": depth // 2}, {"depth": depth * 2}]
        else:
            changes = [{"rows": n} for n in (body.row_block // 2, body.row_block * 2)]
            changes += [{"panels": n} for n in (body.column_panels // 2, body.column_panels * 2)]
        for change in changes:
            if all(change.values()):
                yield Variant((), replace(blocks, **change))  # type: ignore[arg-type]

    def _tiles(self, best: Candidate, registers: bool) -> Iterator[Variant]:
        body, algorithms = best.body, best.variant.algorithms
        assert isinstance(body, TileProduct)
        lanes = self.block.lanes(body.dtype)
        if body.result == "positions":
            found = _position_changes(body, lanes, self.block, registers)
        else:
            found = _tap_changes(body, lanes, self.block, registers)
        for blocks in found:
            yield Variant(algorithms, BY_RULE, blocks)


def _position_changes(
    body: TileProduct, lanes: int, block: BlockSizes, registers: bool
) -> Iterator[TileBlocks]:
    """Half and twice the tiles and columns of a task, or other register blocks."""
    blocks, columns = body.blocks, body.columns.extent * lanes
    if registers:
        for vectors in (1, 2, 3, 4):
            rows = register_rows(vectors, block)
            if body.columns.extent % vectors or rows < 2:
                continue
            width = _divisor(columns, vectors * lanes, blocks.columns)
            tiles = max(rows, blocks.tiles // rows * rows)
            yield replace(blocks, tiles=tiles, columns=width, register_rows=rows, vectors=vectors)
        return
    rows = blocks.register_rows
    for tiles in (blocks.tiles // 2 // rows * rows, 2 * blocks.tiles):
        if rows <= tiles < 2 * _count(body.tiles):
            yield replace(blocks, tiles=tiles)
    for width in (blocks.columns // 2, blocks.columns * 2):
        yield replace(blocks, columns=_divisor(columns, blocks.vectors * lanes, width))


def _tap_changes(
    body: TileProduct, lanes: int, block: BlockSizes, registers: bool
) -> Iterator[TileBlocks]:
    """Half and twice the tiles, rows, columns and pieces of a task, or other register blocks."""
    blocks, columns, tiles = body.blocks, body.columns.extent * lanes, _count(body.tiles)
    if registers:
        for vectors in (1, 2, 3, 4):
            most = (block.registers - 1 - vectors) // vectors
            rows = next((r for r in (16, 8, 4, 2) if r <= most and lanes % r == 0), 0)
            if rows and body.columns.extent % vectors == 0:
                width = _divisor(columns, vectors * lanes, blocks.columns)
                yield replace(blocks, columns=width, register_rows=rows, vectors=vectors)
        return
    piece = -(-tiles // blocks.pieces)
    for depth in (blocks.tiles // 2, min(2 * blocks.tiles, piece)):
        if depth:
            yield replace(blocks, tiles=depth)
    for rows in (blocks.rows // 2, blocks.rows * 2):
        yield replace(blocks, rows=_divisor(body.rows.extent, lanes, rows))
    for width in (blocks.columns // 2, blocks.columns * 2):
        yield replace(blocks, columns=_divisor(columns, blocks.vectors * lanes, width))
    for pieces in (blocks.pieces // 2, blocks.pieces * 2):
        if 1 <= pieces <= tiles and (pieces - 1) * -(-tiles // pieces) < tiles:  # none empty
            yield replace(blocks, pieces=pieces)


def _divisor(total: int, unit: int, wanted: int) -> int:
    """The largest divisor of ``total`` that is a multiple of ``unit`` and at most as wanted."""
    fitting = [d for d in range(unit, total + 1, unit) if total % d == 0 and d <= wanted]
    return max(fitting, default=unit)


def _block_depth(body: Contraction) -> int:
    """Rows of a packed panel."""
    return body.cut * _count(body.depth[body.split + 1 :])


def _count(axes: Iterable[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))
