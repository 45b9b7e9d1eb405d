"""How the threads of a block copy one factor's tile into shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.ir.grid import GridProduct, Operand
from graphc.ir.index import Atom, Index, axis_index, collect
from graphc.ir.scalar import Condition

_UNROLLED = 4
_REGISTERS = 32  # of a thread, for what its copies keep from step to step


@dataclass(frozen=True)
class Copy:
    """How the threads of a block share the copies of one tile: ``passes`` each, lines apart."""

    printer: CudaPrinter
    product: GridProduct
    operand: Operand
    name: str
    size: int
    extent: int
    depth: int
    width: int
    chunks: int
    apart: int
    passes: int

    @property
    def by_depth(self) -> bool:
        """Whether a thread's copies are different lines of M (or N) at one place of the depth."""
        return self.operand.along == "depth"

    @property
    def own_names(self) -> set[str]:
        """The axes that do not change with the step."""
        return {a.name for a in (*self.operand.axes, *self.product.batch)}

    @property
    def kept(self) -> bool:
        """Whether what does not change with the step stays in registers."""
        indexes = 2 + len(self.operand.conditions)
        return bool(self.operand.width) and (
            not self.by_depth or self.passes * indexes <= _REGISTERS
        )

    def prepare_lines(self) -> list[str]:
        """Which copies the thread makes, and the part of their indexes that stays."""
        name = self.name
        place = f" * {self.width}" if self.width > 1 else ""
        lines = [
            f"const int {name}_line = thread / {self.chunks};",
            f"const int {name}_place = thread % {self.chunks}{place};",
        ]
        if not self.kept:
            return lines
        count = f"[{self.passes}]" if self.by_depth else ""
        parts = self._own_parts()
        declared = [f"{self.printer.index} {name}_own_{n}{count};" for n in range(len(parts))]
        if self._overhangs():
            declared.append(f"bool {name}_inside{count};")
        body = self._own_lines("[copy]" if self.by_depth else "", declare=False)
        if self.by_depth:
            loop = f"for (int copy = 0; copy < {self.passes}; copy++) {{"
            return [*lines, *declared, "#pragma unroll", loop, *_indented(body), "}"]
        return [*lines, *declared, "{", *_indented(body), "}"]

    def _own_lines(self, at: str, *, declare: bool) -> list[str]:
        """The own axes' part of the offset and of each condition."""
        name, index = self.name, self.printer.index
        flat = f"first_{name} + {name}_place"
        if self.by_depth:
            flat = f"first_{name} + {name}_line + copy * {self.apart}"
        parts = self._own_parts()
        own = {a for part in parts for a in part.names}
        lines = [f"const {index} {name}_flat = {flat};"]
        lines += self.printer.decode_lines(f"{name}_flat", self.operand.axes, own, 0)
        kind, truth = (f"const {index} ", "const bool ") if declare else ("", "")
        lines += [
            f"{kind}{name}_own_{n}{at} = {self.printer.index_text(part)};"
            for n, part in enumerate(parts)
        ]
        if self._overhangs():
            lines.append(f"{truth}{name}_inside{at} = {name}_flat < {self.extent};")
        return lines

    def _overhangs(self) -> bool:
        return self.extent % self.size != 0

    def _own_parts(self) -> list[Index]:
        """The parts of the offset and of each condition that the own axes make."""
        if not self.operand.width:
            return []
        indexes = [self.operand.offset, *(c.index for c in self.operand.conditions)]
        return [self._split(index)[0] for index in indexes]

    def _split(self, index: Index) -> tuple[Index, Index]:
        """The part of an index that stays, and the part that moves with the depth."""
        names = self.own_names
        stays = [t for t in index.terms if _names(t[0]) <= names]
        moves = [t for t in index.terms if not _names(t[0]) <= names]
        return collect(stays, index.const), collect(moves, 0)

    def _flat(self, moving: Index) -> Index:
        """The part that moves, by the number of the depth itself where memory runs like it."""
        last = self.product.depth[-1]
        terms: list[tuple[Atom, int]] = []
        step = moving.coefficient(last.name)
        for axis in reversed(self.product.depth):
            terms.append((axis.name, step))
            step *= axis.extent
        if moving != collect(terms, 0):
            return moving
        return axis_index(f"{self.name}_depth") * moving.coefficient(last.name)

    def load_lines(self) -> list[str]:
        """The copies of one step."""
        name, index = self.name, self.printer.index
        at = f"{name}_line + copy * {self.apart}"
        body: list[str] = []
        depth_place = f"{name}_place" if self.by_depth else f"({at})"
        start = "step * DEPTH" if index == "int" else f"({index})step * DEPTH"
        flat = f"const {index} {name}_depth = {start} + {depth_place};"
        copied = self._copied if self.operand.width else self._computed
        moving = copied(at)
        used = words(moving)
        decode = self.printer.decode_lines(f"{name}_depth", self.product.depth, used, 0)
        placed = [flat, *decode] if decode or f"{name}_depth" in used else []
        body = [*moving] if self.by_depth else [*placed, *moving]
        loop = f"for (int copy = 0; copy < {self.passes}; copy++) {{"
        whole = self.passes <= _UNROLLED or (self.kept and self.by_depth)
        unroll = "#pragma unroll" if whole else f"#pragma unroll {_UNROLLED}"
        lines = [unroll, loop, *_indented(body), "}"]
        return ["{", *_indented([*placed, *lines] if self.by_depth else lines), "}"]

    def _copied(self, at: str) -> list[str]:
        """An asynchronous copy, of zeros where a condition fails."""
        name = self.name
        own = "[copy]" if self.by_depth and self.kept else ""
        before = [] if self.kept else self._own_lines("", declare=True)
        tests = [f"{name}_inside{own}"] if self._overhangs() else []
        if self.depth % self.product.tile.depth:
            tests.append(f"{name}_depth < {self.depth}")
        for number, condition in enumerate(self.operand.conditions, 1):
            tests += self._tests(condition, f"{name}_own_{number}{own}")
        moving = self._flat(self._split(self.operand.offset)[1])
        offset = f"{name}_own_0{own}"
        if moving.terms:
            offset += f" + {self.printer.index_text(moving)}"
        source, target = self.operand.buffer, self._target(at)
        size = self.width * self.product.factor.size
        if not tests:
            return [*before, f"gc_cp_async{size}({target}, {source} + {offset});"]
        return [
            *before,
            f"const bool valid = {' && '.join(tests)};",
            f"gc_cp_async{size}({target}, valid ? {source} + {offset} : {source}, valid);",
        ]

    def _tests(self, condition: Condition, own: str) -> list[str]:
        moving = self._split(condition.index)[1]
        value = f"{own} + {self.printer.index_text(moving)}" if moving.terms else own
        tests = []
        if condition.lower is not None:
            tests.append(f"{value} >= {condition.lower}")
        if condition.upper is not None:
            tests.append(f"{value} < {condition.upper}")
        return tests

    def _computed(self, at: str) -> list[str]:
        """An element that is computed and stored; it is seen after the next barrier."""
        name, tests = self.name, []
        flat = f"first_{name} + " + (f"({at})" if self.by_depth else f"{name}_place")
        kind, printer = TYPES[self.product.factor], self.printer
        if self._overhangs():
            tests.append(f"{name}_flat < {self.extent}")
        if self.depth % self.product.tile.depth:
            tests.append(f"{name}_depth < {self.depth}")
        value = printer.scalar_text(self.operand.value)
        own = printer.decode_lines(f"{name}_flat", self.operand.axes, words([value]), 0)
        lines = [f"const {printer.index} {name}_flat = {flat};"] if own or tests else []
        text = f"{' && '.join(tests)} ? {value} : {kind}{{}}" if tests else value
        return [*lines, *own, f"*({kind} *)({self._target(at)}) = {text};"]

    def _target(self, at: str) -> str:
        size = self.product.factor.size
        if self.by_depth:
            return f"{self.name}_tile + gc_swizzle<128>(({at}) * 128 + {self.name}_place * {size})"
        place = outer_place(f"({at})", f"{self.name}_place", self.size, size)
        return f"{self.name}_tile + {place} * {size}"


def outer_place(depth: str, own: str, line: int | str, size: int) -> str:
    """The element of a tile whose own axes run along a line; what is read at once of 4 lines, or of
    8 with elements of 16 bits, lies in different banks.
    """
    return f"({depth} * {line} + ({own} ^ ({depth} % {8 if size == 2 else 4} * 8)))"


def _names(atom: Atom) -> frozenset[str]:
    return frozenset({atom}) if isinstance(atom, str) else atom.inner.names


def _indented(lines: Sequence[str]) -> list[str]:
    return [line if line.startswith("#") else f"  {line}" for line in lines]
