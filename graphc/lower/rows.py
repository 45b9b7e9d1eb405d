"""A chain of equations over common rows as one kernel: a loop over rows, in it loops over columns.

A reduction needs its whole row, so what reads it waits for the next loop. A map over columns is
computed again in every loop that needs it, from what lies in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.errors import CompilerBug
from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.grid import GridNest, Team
from graphc.ir.index import axis_index
from graphc.ir.loops import Combine, Loop, Statement, Store, TeamLoop
from graphc.ir.scalar import Name
from graphc.ir.types import element_count
from graphc.lower.access import Merged, merge_axes, rename_axes
from graphc.lower.group import Group
from graphc.lower.names import Namer
from graphc.lower.nest import NestPlan, make_stage, map_statement, output_loops
from graphc.lower.reduction import (
    SHORT_WINDOW,
    Parts,
    Stage,
    combine_statements,
    only_sums,
    reduction_parts,
    sibling_blocks,
    stage_accesses,
)
from graphc.lower.teams import BLOCK, WARP
from graphc.passes.rows import RowChain, row_chain

_LONG_ROW = 1 << 11  # columns that a whole block shares
_MANY_ROWS = 1 << 12


@dataclass(frozen=True)
class _Walk:
    """One walk along a row: reductions, maps that are stored, and what is known of the row then."""

    blocks: tuple[tuple[Stage, ...], ...]
    stored: tuple[Stage, ...]
    after: tuple[Stage, ...]


@dataclass(frozen=True)
class _Rows:
    """The chain with the axes of its rows and columns, merged, and its loops in order."""

    chain: RowChain
    plan: NestPlan
    rows: Merged
    columns: Merged
    both: Merged
    wide: tuple[Stage, ...]
    first: tuple[Stage, ...]
    walks: tuple[_Walk, ...]
    stores: dict[str, Store]


def rename_rows(nodes: Sequence[Node], namer: Namer) -> dict[Node, Equation]:
    """Equations over common names of rows and columns; axes of extent 1 keep apart."""
    chain = _chain(nodes)
    seed = next(n for n in nodes if not n.op_equation().is_map)
    axes = (*seed.op_equation().axes, *seed.op_equation().reduce_axes)
    common = [namer.axis(a.name) for a in axes if a.extent > 1]
    found = {}
    for node in nodes:
        equation, roles = node.op_equation(), chain.roles[node]
        names = {
            a.name: common[roles[a.name]] if a.name in roles else namer.axis(a.name)
            for a in (*equation.axes, *equation.reduce_axes)
        }
        found[node] = rename_axes(equation, names)
    return found


def build_rows(group: Group) -> tuple[Statement, ...]:
    """The statements for a processor: rows in parallel."""
    rows = _rows(group)
    body = [map_statement(stage, rows.both) for stage in rows.first]
    for walk in rows.walks:
        parts = [reduction_parts(block, rows.both, rows.columns) for block in walk.blocks]
        body += [statement for part in parts for statement in part.before]
        body += _column_loops(rows, walk, parts)
        body += [statement for part in parts for statement in part.after]
        body += [map_statement(stage, rows.both) for stage in walk.after]
    body += _row_stores(rows)
    points = sum(stage.equation.points for stage in rows.plan.stages)
    return output_loops(rows.rows.axes, tuple(body), points, simd=False)


def grid_rows(group: Group, wide_from: int) -> GridNest:
    """The nest for a device: a team of threads for each row."""
    rows = _rows(group)
    team = _team(rows.chain)
    body = [map_statement(stage, rows.both) for stage in rows.first]
    for walk in rows.walks:
        parts = [reduction_parts(block, rows.both, rows.columns) for block in walk.blocks]
        body += [statement for part in parts for statement in part.before]
        body.append(TeamLoop(rows.columns.axes, _inside(rows, walk.blocks, parts, walk.stored)))
        for block, part in zip(walk.blocks, parts, strict=True):
            body += [Combine(*combine_statements(block), everywhere=True), *part.after]
        body += [map_statement(stage, rows.both) for stage in walk.after]
    count, columns = element_count(rows.chain.rows), element_count(rows.chain.columns)
    sizes = [array.layout.size for array in group.arrays.values()]
    wide = max([count * columns, *sizes]) >= wide_from
    reason = (
        f"{team.workers} threads share a row of {columns}, which they walk {len(rows.walks)} times"
    )
    return GridNest(rows.rows.axes, team, tuple(body), tuple(_row_stores(rows)), wide, reason)


def _chain(nodes: Sequence[Node]) -> RowChain:
    chain = row_chain(nodes)
    if chain is None:
        raise CompilerBug(f"{nodes[0]!r} and what is fused with it are no chain of rows")
    return chain


def _rows(group: Group) -> _Rows:
    chain = _chain(group.nodes)
    computed: dict[Node, str] = {}
    stages = []
    for node in group.nodes:
        stage = make_stage(
            node, group.equations[node], group.values[node], computed, group.arrays
        )  # fmt: skip
        stages.append(stage)
        computed[node] = stage.value
    plan = NestPlan((), stages, group.namer)
    stores = {
        group.values[node]: Store(
            group.arrays[node].name,
            group.arrays[node].layout.offset(
                tuple(axis_index(a.name) for a in group.equations[node].axes)
            ).simplify(group.equations[node].extents),
            Name(group.values[node], node.dtype),
        )
        for node in group.stored
    }  # fmt: skip
    rows, columns = _merged(chain, group, stages, stores)
    both = Merged((), rows.values | columns.values)
    moved = {
        value: Store(s.buffer, s.offset.substitute(both.values), s.value)
        for value, s in stores.items()
    }
    wide = tuple(s for s in stages if s.equation.is_map and chain.has_columns(s.node))
    first, walks = _walks(stages, wide, set(moved))
    return _Rows(chain, plan, rows, columns, both, wide, first, walks, moved)


def _merged(
    chain: RowChain, group: Group, stages: Sequence[Stage], stores: dict[str, Store]
) -> tuple[Merged, Merged]:
    """Rows and columns, each merged where every access lets them; axes of extent 1 are gone."""
    offsets, conditions = stage_accesses(stages)
    offsets += [store.offset for store in stores.values()]
    seed = next(s.equation for s in stages if not s.equation.is_map)
    ones = [a for s in stages for a in (*s.equation.axes, *s.equation.reduce_axes) if a.extent == 1]
    rows = merge_axes((*seed.axes, *ones), offsets, conditions, group.namer)
    return rows, merge_axes(seed.reduce_axes, offsets, conditions, group.namer)


def _walks(
    stages: Sequence[Stage], wide: Sequence[Stage], stored: set[str]
) -> tuple[tuple[Stage, ...], tuple[_Walk, ...]]:
    """What is known of a row before its first loop, and the loops with what follows each."""
    ready = _readiness(stages)
    reductions = [s for s in stages if not s.equation.is_map]
    narrow = [s for s in stages if s.equation.is_map and s not in wide]
    last = max([ready[s.value] for s in wide if s.value in stored] + [
        ready[s.value] - 1 for s in reductions])  # fmt: skip
    walks = []
    for number in range(last + 1):
        mine = [s for s in reductions if ready[s.value] == number + 1]
        kept = tuple(s for s in wide if s.value in stored and ready[s.value] == number)
        blocks = tuple(tuple(block) for block in sibling_blocks(mine))
        after = tuple(s for s in narrow if ready[s.value] == number + 1)
        walks.append(_Walk(blocks, kept, after))
    return tuple(s for s in narrow if ready[s.value] == 0), tuple(walks)


def _readiness(stages: Sequence[Stage]) -> dict[str, int]:
    """How many loops over the columns must be done before a value is known (of a row, or here)."""
    ready: dict[str, int] = {}
    for stage in stages:
        needed = max((ready[r] for r in stage.reads if isinstance(r, str)), default=0)
        ready[stage.value] = needed + (not stage.equation.is_map)
    return ready


def _needed(wide: Sequence[Stage], wanted: Sequence[Stage]) -> tuple[Stage, ...]:
    """The maps over columns that some stages are made of, in order, those among them included."""
    names = {stage.value for stage in wanted}
    names |= {r for stage in wanted for r in stage.reads if isinstance(r, str)}
    for stage in reversed(wide):
        if stage.value in names:
            names |= {r for r in stage.reads if isinstance(r, str)}
    return tuple(stage for stage in wide if stage.value in names)


def _inside(
    rows: _Rows, blocks: Sequence[Sequence[Stage]], parts: Sequence[Parts], stored: Sequence[Stage]
) -> tuple[Statement, ...]:
    """What happens at one column."""
    maps = _needed(rows.wide, (*(stage for block in blocks for stage in block), *stored))
    return (
        *(map_statement(stage, rows.both) for stage in maps),
        *(statement for part in parts for statement in part.inside),
        *(rows.stores[stage.value] for stage in stored),
    )


def _column_loops(rows: _Rows, walk: _Walk, parts: Sequence[Parts]) -> list[Statement]:
    """The loops over the columns: sums and stores in lanes, whatever compares in another loop."""
    both = list(zip(walk.blocks, parts, strict=True))
    plain = [(b, p) for b, p in both if only_sums(b) and not b[0].conditions]
    others = [(b, p) for b, p in both if (b, p) not in plain]
    loops: list[Statement] = []
    for chosen, stored in ((others, ()), (plain, walk.stored)):
        blocks = [block for block, _ in chosen]
        body = _inside(rows, blocks, [part for _, part in chosen], stored)
        if body:
            loops += _in_loops(rows, blocks, body, simd=chosen is plain)
    return loops


def _in_loops(
    rows: _Rows, blocks: Sequence[Sequence[Stage]], body: tuple[Statement, ...], *, simd: bool
) -> tuple[Statement, ...]:
    sums = tuple(f"{s.value}_sum" for block in blocks for s in block)
    simd = simd and element_count(rows.chain.columns) > SHORT_WINDOW
    for axis in reversed(rows.columns.axes):
        vector = simd and axis is rows.columns.axes[-1]
        body = (Loop(axis, body, simd=vector, sums=sums if vector else ()),)
    return body


def _row_stores(rows: _Rows) -> list[Statement]:
    """What is stored once a row."""
    wide = {stage.value for walk in rows.walks for stage in walk.stored}
    return [store for value, store in rows.stores.items() if value not in wide]


def _team(chain: RowChain) -> Team:
    """Threads of a row, and as many whole rows as fill a block."""
    count, columns = element_count(chain.rows), element_count(chain.columns)
    workers = BLOCK if columns > _LONG_ROW or (
        columns >= BLOCK and count < _MANY_ROWS) else WARP  # fmt: skip
    outputs = 1
    while outputs < BLOCK // workers and count % (2 * outputs) == 0:
        outputs *= 2
    return Team(workers, outputs, "workers")
