"""A grid nest as a CUDA kernel: which output a thread belongs to, then what it does."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.backends.templating import render
from graphc.ir.grid import GridNest, GridParts
from graphc.ir.loops import Parameter
from graphc.ir.routine import Routine
from graphc.ir.types import Axis, element_count
from graphc.lower.teams import BLOCK


def nest_source(routine: Routine, nest: GridNest) -> tuple[str, int]:
    """CUDA text of a nest, and how many blocks it takes."""
    text, blocks = nest_text(routine.name, routine.title, routine.parameters, nest)
    return f'#include "gc_device.cuh"\n\n{text}', blocks


def parts_source(routine: Routine, parts: GridParts) -> tuple[str, int]:
    """CUDA text of nests that run side by side, and how many blocks they take in all."""
    texts, calls, first = [], [], 0
    for part in parts.parts:
        text, blocks = nest_text(part.name, part.title, part.parameters, part.nest, part=True)
        texts.append(text)
        place = f"block - {first}" if first else "block"
        first += blocks
        calls.append(_PartCall(part.name, ", ".join((place, *part.arguments)), first))
    text = render(
        "cuda/parts.cu.jinja", parts=texts, name=routine.name, threads=BLOCK, calls=calls,
        parameters=parameter_list(routine.parameters),
    )  # fmt: skip
    return text, first


@dataclass(frozen=True)
class _PartCall:
    """A part's call, for the blocks below ``end`` that no part before it has."""

    name: str
    arguments: str
    end: int


def nest_text(
    name: str, title: tuple[str, ...], parameters: tuple[Parameter, ...], nest: GridNest, *,
    part: bool = False,
) -> tuple[str, int]:  # fmt: skip
    """One kernel, and how many blocks it takes; ``part``: a function that is told its block."""
    count = element_count(tuple(a.extent for a in nest.axes))
    blocks = -(-count // nest.team.outputs)
    whole = blocks * nest.team.outputs == count
    printer = CudaPrinter(nest.team, wide=nest.wide, whole=whole)
    printer.block = "block" if part else "blockIdx.x"
    printer.extents |= {axis.name: axis.extent for axis in nest.axes}
    body = printer.statement_lines(nest.body)
    finish = printer.statement_lines(nest.finish, 2)
    used = words([*body, *finish])
    places = _team_places if nest.team.workers > 1 else _thread_places
    first = "worker == 0" if whole else "worker == 0 && active"
    text = render(
        "cuda/nest.cu.jinja", title=title, reason=nest.reason, name=name,
        parameters=parameter_list(parameters), threads=nest.team.threads,
        places=places(nest, printer, count, used), body=body, finish=finish, first=first,
        part=part,
    )  # fmt: skip
    return text, blocks


def parameter_list(parameters: tuple[Parameter, ...]) -> str:
    """Arrays as a kernel takes them; one that it both reads and writes is one parameter."""
    return ", ".join(
        f"{'' if p.written else 'const '}{TYPES[p.dtype]} *__restrict__ {p.name}"
        for p in parameters
    )


def _thread_places(nest: GridNest, printer: CudaPrinter, count: int, used: set[str]) -> list[str]:
    """Which output a thread computes; those beyond the last have nothing to do."""
    flat = _flat_name(nest.axes)
    lines = []
    if not printer.whole or used & {a.name for a in nest.axes}:
        place = f"(int)({printer.block} * {nest.team.threads} + threadIdx.x)"
        if nest.wide:
            place = f"(gc_int64){printer.block} * {nest.team.threads} + threadIdx.x"
        lines.append(f"const {printer.index} {flat} = {place};")
    if not printer.whole:
        lines.append(f"if ({flat} >= {count}) return;")
    return lines + _decoded(nest.axes, printer, used)


def _team_places(nest: GridNest, printer: CudaPrinter, count: int, used: set[str]) -> list[str]:
    """Which output a thread's team computes, and which of its workers the thread is."""
    team, flat = nest.team, _flat_name(nest.axes)
    mine, worker = "0", "thread"
    if team.outputs > 1 and team.adjacent == "workers":
        mine, worker = f"thread / {team.workers}", f"thread % {team.workers}"
    elif team.outputs > 1:
        mine, worker = f"thread % {team.outputs}", f"thread / {team.outputs}"
    block = f"({printer.index}){printer.block}"
    first = block if team.outputs == 1 else f"{block} * {team.outputs} + {mine}"
    lines = ["const int thread = (int)threadIdx.x;", f"const int worker = {worker};"]
    if not printer.whole or used & {a.name for a in nest.axes}:
        lines.append(f"const {printer.index} {flat} = {first};")
    if not printer.whole:
        lines.append(f"const bool active = {flat} < {count};")
    return lines + _decoded(nest.axes, printer, used)


def _flat_name(axes: tuple[Axis, ...]) -> str:
    return axes[0].name if len(axes) == 1 else "output"


def _decoded(axes: tuple[Axis, ...], printer: CudaPrinter, used: set[str]) -> list[str]:
    if len(axes) < 2:
        return []
    return [line.strip() for line in printer.decode_lines("output", axes, used, 0)]
