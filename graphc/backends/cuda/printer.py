"""Loop IR -> CUDA text: what one thread does."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from graphc.backends.cuda.mapping import (
    BINARY,
    FUNCTIONS,
    INDEX,
    NARROW,
    TYPES,
    WIDE_INDEX,
    WIDEN,
    literal,
)
from graphc.backends.printer import INDENT, Printer
from graphc.ir.grid import Team
from graphc.ir.index import Index
from graphc.ir.loops import (
    Combine,
    Declare,
    LoadLanes,
    Loop,
    Statement,
    Store,
    StoreLanes,
    TeamLoop,
)
from graphc.ir.types import Axis, DType, element_count

_UNROLLED = 16  # windows up to this long are unrolled
_DIVISION = "function='divide'"
_WORD = re.compile(r"[A-Za-z_]\w*")


class CudaPrinter(Printer):
    """The words of a kernel whose blocks are teams, and whose places may be ``wide``.

    ``whole``: every thread has an output; otherwise ``active`` says whether it has one. The printer
    learns the extents of axes as they are declared, and so which indexes are never negative.
    ``block`` is what a thread's block is called.
    """

    types = TYPES
    binary = BINARY
    functions = FUNCTIONS
    widen = WIDEN
    narrow = NARROW

    def __init__(self, team: Team, *, wide: bool, whole: bool):
        self.team = team
        self.whole = whole
        self.index = WIDE_INDEX if wide else INDEX
        self.extents: dict[str, int] = {}
        self.block = "blockIdx.x"

    def literal(self, value: float | int | bool, dtype: DType) -> str:
        """A CUDA literal of exactly this value and type."""
        return literal(value, dtype)

    def quotient_text(self, index: Index, divisor: int) -> str:
        """Rounded down; CUDA's own division where nothing is negative."""
        if index.bounds(self.extents)[0] < 0:
            return super().quotient_text(index, divisor)
        return f"{_grouped(self.index_text(index))} / {divisor}"

    def remainder_text(self, index: Index, divisor: int) -> str:
        """Never negative; CUDA's own remainder where nothing is."""
        if index.bounds(self.extents)[0] < 0:
            return super().remainder_text(index, divisor)
        return f"{_grouped(self.index_text(index))} % {divisor}"

    def atom_text(self, atom: Any) -> str:
        """A quotient or remainder keeps together."""
        text = super().atom_text(atom)
        return text if isinstance(atom, str) or text.endswith(")") else f"({text})"

    def decode_lines(
        self, flat: str, axes: tuple[Axis, ...], used: Collection[str], depth: int
    ) -> list[str]:
        """The axes of a row-major number; only those that ``used`` names are declared."""
        lines, after = [], element_count(tuple(a.extent for a in axes))
        for position, axis in enumerate(axes):
            self.extents[axis.name] = axis.extent
            after //= axis.extent
            value = flat if after == 1 else f"{flat} / {after}"
            if position:
                value = f"{value} % {axis.extent}"
            if axis.name in used:
                lines.append(f"{INDENT * depth}const {self.index} {axis.name} = {value};")
        return lines

    def declaration(self, statement: Declare) -> str:
        """A local variable, or neighbours that will be stored as one."""
        if statement.lanes:
            return f"gc_lanes<{TYPES[statement.dtype]}, {statement.lanes}> {statement.name};"
        return super().declaration(statement)

    def loop_lines(self, loop: Loop, depth: int) -> list[str]:
        """A loop of one thread."""
        pad, name = INDENT * depth, loop.axis.name
        self.extents[name] = loop.axis.extent
        head = f"{pad}for ({self.index} {name} = 0; {name} < {loop.axis.extent}; {name}++) {{"
        unrolled = loop.unroll and loop.axis.extent <= _UNROLLED
        lines = [f"{pad}#pragma unroll"] if unrolled else []
        return [*lines, head, *self.statement_lines(loop.body, depth + 1), f"{pad}}}"]

    def one_statement(self, statement: Statement, depth: int) -> list[str]:
        """The lines of one statement."""
        pad = INDENT * depth
        if isinstance(statement, LoadLanes):
            kind = f"gc_lanes<{TYPES[statement.dtype]}, {statement.lanes}>"
            address = f"{statement.buffer} + {self.index_text(statement.offset)}"
            value = f"gc_load_lanes<{statement.lanes}>({address})"
            return [f"{pad}const {kind} {statement.name} = {value};"]
        if isinstance(statement, StoreLanes):
            address = f"{statement.buffer} + {self.index_text(statement.offset)}"
            return [f"{pad}gc_store_lanes({address}, {statement.name});"]
        if isinstance(statement, TeamLoop):
            return self.team_loop_lines(statement, depth)
        if isinstance(statement, Combine):
            return self.combine_lines(statement, depth)
        return super().one_statement(statement, depth)

    def team_loop_lines(self, loop: TeamLoop, depth: int) -> list[str]:
        """A worker's share of a window: every ``workers``-th position, counted row-major."""
        pad, workers = INDENT * depth, self.team.workers
        count = element_count(tuple(a.extent for a in loop.axes))
        flat = loop.axes[0].name if len(loop.axes) == 1 else "position"
        head = f"for ({self.index} {flat} = worker; {flat} < {count}; {flat} += {workers}) {{"
        decoded: list[str] = []
        if len(loop.axes) == 1:
            self.extents[flat] = count
        else:
            for axis in loop.axes:
                self.extents[axis.name] = axis.extent
            used = words(self.statement_lines(loop.body))
            decoded = self.decode_lines("position", loop.axes, used, depth + 1)
        body = [*decoded, *self.statement_lines(loop.body, depth + 1)]
        # A division calls a function, across which few values stay in registers.
        calls = any(isinstance(s, Store) for s in loop.body) and _DIVISION in repr(loop.body)
        once = [f"{pad}#pragma unroll 1"] if calls else []
        if self.whole:
            return [*once, f"{pad}{head}", *body, f"{pad}}}"]
        moved = [INDENT + line for line in body]
        lines = [f"{pad}if (active) {{", *once, f"{pad}{INDENT}{head}", *moved]
        return [*lines, f"{pad}{INDENT}}}", f"{pad}}}"]

    def combine_lines(self, combine: Combine, depth: int) -> list[str]:
        """The team's accumulators in shared memory, halved until the first worker has all."""
        pad, team = INDENT * depth, self.team
        step = 1 if team.adjacent == "workers" else team.outputs
        shares = [(name, f"{name.name}_shares") for name in combine.names]
        lines = [
            f"{pad}__shared__ {TYPES[name.dtype]} {share}[{team.threads}];"
            for name, share in shares
        ]
        lines += [f"{pad}{share}[thread] = {name.name};" for name, share in shares]
        lines += [
            f"{pad}for (int half = {team.workers // 2}; half > 0; half /= 2) {{",
            f"{pad}{INDENT}gc_syncthreads();",
            f"{pad}{INDENT}if (worker < half) {{",
        ]
        inner, place = INDENT * (depth + 2), "half" if step == 1 else f"{step}*half"
        for (_, share), one in zip(shares, combine.others, strict=True):
            lines.append(f"{inner}const {TYPES[one.dtype]} {one.name} = {share}[thread + {place}];")
        lines += self.statement_lines(combine.body, depth + 2)
        lines += [f"{inner}{share}[thread] = {name.name};" for name, share in shares]
        lines += [f"{pad}{INDENT}}}", f"{pad}}}"]
        if not combine.everywhere:
            return lines
        mine = "thread - worker" if step == 1 else f"thread % {step}"
        if team.threads == team.workers:
            mine = "0"
        lines.append(f"{pad}gc_syncthreads();")
        return lines + [f"{pad}{name.name} = {share}[{mine}];" for name, share in shares]


def _grouped(text: str) -> str:
    return text if text.isidentifier() else f"({text})"


def words(lines: Sequence[str]) -> set[str]:
    """Every identifier in a text."""
    return set(_WORD.findall("\n".join(lines)))
