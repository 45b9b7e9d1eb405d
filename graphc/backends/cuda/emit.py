"""Routines -> CUDA sources, one file a kernel, and how each kernel is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.driver import Extent
from graphc.backends.cuda.nest import nest_source
from graphc.errors import CompilerBug
from graphc.ir.loops import GridNest, Routine
from graphc.ir.schedule import Schedule
from graphc.ir.source import SourceFile
from graphc.lower.routines import buffer_order


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: its blocks, their threads and shared memory, and buffers by number."""

    kernel: str
    grid: Extent
    block: Extent
    shared_bytes: int
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class Emitted:
    """The sources, one a kernel, and the launches in order."""

    files: tuple[SourceFile, ...]
    launches: tuple[Launch, ...]


def emit(schedule: Schedule, routines: Sequence[Routine]) -> Emitted:
    """CUDA source of a whole schedule."""
    files, launches = [], []
    for routine, plan in zip(routines, schedule.kernels, strict=True):
        nest = routine.body
        if not isinstance(nest, GridNest):
            raise CompilerBug(f"{routine.name} was not lowered for a device")
        text, blocks = nest_source(routine, nest)
        files.append(SourceFile(f"{routine.name}.cu", text))
        block = (nest.team.threads, 1, 1)
        launches.append(
            Launch(routine.name, (blocks, 1, 1), block, 0, buffer_order(plan, schedule))
        )
    return Emitted(tuple(files), tuple(launches))
