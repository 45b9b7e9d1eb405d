"""Routines -> C source files: one file a kernel, one header, one file that runs them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.c.contraction import contraction_source, has_pairs
from graphc.backends.c.mapping import TYPES
from graphc.backends.c.printer import statement_lines
from graphc.backends.c.tiles import tiles_source
from graphc.backends.templating import render
from graphc.errors import CompilerBug
from graphc.ir.boxes import BoxProduct
from graphc.ir.grid import GridNest, GridParts, GridProduct
from graphc.ir.loops import BlockSizes, Contraction, Parameter, TileProduct
from graphc.ir.routine import Routine
from graphc.ir.schedule import Schedule
from graphc.ir.source import SourceFile
from graphc.lower.routines import buffer_order


@dataclass(frozen=True)
class Emitted:
    """All source files, and the workspace that the kernels need."""

    files: tuple[SourceFile, ...]
    shared_bytes: int
    private_bytes: int


@dataclass(frozen=True)
class _KernelCall:
    name: str
    types: str
    arguments: str


def emit(schedule: Schedule, routines: Sequence[Routine], block: BlockSizes) -> Emitted:
    """C source of a whole schedule."""
    halves = any(node.dtype.is_half for node in schedule.graph.nodes)
    files = headers(halves, routines)
    shared = private = 0
    for routine in routines:
        text, needs_shared, needs_private = routine_source(routine, block)
        files.append(SourceFile(f"{routine.name}.c", text))
        shared, private = max(shared, needs_shared), max(private, needs_private)
    calls = [
        _KernelCall(
            routine.name,
            ", ".join(_declared(p) for p in routine.parameters),
            ", ".join(f"arrays[{n}]" for n in buffer_order(plan, schedule)),
        )
        for routine, plan in zip(routines, schedule.kernels, strict=True)
    ]
    files.append(SourceFile("run.c", render("c/run.c.jinja", kernels=calls)))
    return Emitted(tuple(files), shared, private)


def headers(halves: bool, routines: Sequence[Routine]) -> list[SourceFile]:
    """What the files of these routines include; ``halves`` are numbers of 16 bits."""
    files = [SourceFile("graphc.h", render("c/graphc.h.jinja", halves=halves))]
    if any(has_pairs(routine.body) for routine in routines):
        files.append(SourceFile("graphc_bf16.h", render("c/graphc_bf16.h.jinja")))
    return files


def routine_source(routine: Routine, block: BlockSizes) -> tuple[str, int, int]:
    """C text of one routine, bytes of its shared and of its per-thread workspace."""
    parameters = ", ".join(_declared(p) for p in routine.parameters)
    if isinstance(routine.body, Contraction):
        return contraction_source(routine, routine.body, parameters)
    if isinstance(routine.body, TileProduct):
        return tiles_source(routine, routine.body, block.vector_bytes, parameters)
    if isinstance(routine.body, GridNest | GridParts | GridProduct | BoxProduct):
        raise CompilerBug(f"{routine.name} was lowered for a device")
    text = render(
        "c/nest.c.jinja", title=routine.title, name=routine.name, parameters=parameters,
        body=statement_lines(routine.body),
    )  # fmt: skip
    return text, 0, 0


def _declared(parameter: Parameter) -> str:
    const = "" if parameter.written else "const "
    return f"{const}{TYPES[parameter.dtype]} *restrict {parameter.name}"
