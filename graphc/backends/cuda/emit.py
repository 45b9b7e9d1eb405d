"""Routines -> CUDA sources, one file a kernel, and how each kernel is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.box_product import BoxSource, box_product_source
from graphc.backends.cuda.driver import Extent
from graphc.backends.cuda.nest import nest_source, parts_source
from graphc.backends.cuda.product import product_source
from graphc.errors import CompilerBug
from graphc.ir.boxes import BoxProduct
from graphc.ir.grid import GridNest, GridParts, GridProduct
from graphc.ir.routine import Routine
from graphc.ir.schedule import Schedule
from graphc.ir.source import SourceFile
from graphc.lower.routines import buffer_order
from graphc.lower.teams import BLOCK


@dataclass(frozen=True)
class BoxArgument:
    """A tensor in a buffer, and the box of it that one copy takes; in bytes, slowest first.

    The extents ``shape`` and ``box`` count elements of ``element_bytes``.
    """

    buffer: int
    offset: int
    element_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: its blocks, their threads and shared memory, and buffers by number.

    A kernel gets the maps of its ``boxes`` first, and ``workspace``, in bytes, where it needs it,
    last.
    """

    kernel: str
    routine: str
    grid: Extent
    block: Extent
    shared_bytes: int
    buffers: tuple[int, ...]
    workspace: int = 0
    boxes: tuple[BoxArgument, ...] = ()


@dataclass(frozen=True)
class Emitted:
    """The sources, one a routine, the launches in order, and those that make each copy anew."""

    files: tuple[SourceFile, ...]
    launches: tuple[Launch, ...]
    copies: tuple[Launch, ...] = ()

    @property
    def workspace_bytes(self) -> int:
        """Memory that the kernels share, one after the other."""
        return max((launch.workspace for launch in self.launches), default=0)


def emit(schedule: Schedule, routines: Sequence[Routine]) -> Emitted:
    """CUDA source of a whole schedule."""
    files: list[SourceFile] = []
    launches: list[Launch] = []
    plans = (*schedule.kernels, *schedule.copies)
    for routine, plan in zip(routines, plans, strict=True):
        text, found = routine_source(routine, buffer_order(plan, schedule))
        files.append(SourceFile(f"{routine.name}.cu", text))
        launches += found
    end = len(launches) - len(schedule.copies)
    return Emitted(tuple(files), tuple(launches[:end]), tuple(launches[end:]))


def routine_source(routine: Routine, buffers: tuple[int, ...]) -> tuple[str, list[Launch]]:
    """CUDA text of one routine, and its launches."""
    name, body = routine.name, routine.body
    if isinstance(body, GridNest):
        text, blocks = nest_source(routine, body)
        threads = body.team.threads
        return text, [Launch(name, name, (blocks, 1, 1), (threads, 1, 1), 0, buffers)]
    if isinstance(body, GridParts):
        text, blocks = parts_source(routine, body)
        return text, [Launch(name, name, (blocks, 1, 1), (BLOCK, 1, 1), 0, buffers)]
    numbers = {p.name: n for p, n in zip(routine.parameters, buffers, strict=True)}
    boxes: tuple[BoxArgument, ...] = ()
    if isinstance(body, BoxProduct):
        made, sources = box_product_source(routine, body)
        boxes = tuple(_box_argument(s, numbers[s.buffer], body.factor.size) for s in sources)
    elif isinstance(body, GridProduct):
        made = product_source(routine, body)
    else:
        raise CompilerBug(f"{name} was not lowered for a device")
    own = tuple(numbers[p.name] for p in made.parameters if p.name in numbers)
    block = (made.threads, 1, 1)
    first = (name, name, made.grid, block, made.shared_bytes, own, made.workspace, boxes)
    launches = [Launch(*first)]
    if made.second is not None:
        blocks, threads = made.second.blocks, made.second.threads
        touched = tuple(numbers[p.name] for p in made.second.parameters)
        after = (f"{name}_finish", name, (blocks, 1, 1), (threads, 1, 1), 0, touched)
        launches.append(Launch(*after, made.workspace))
    return made.text, launches


def _box_argument(source: BoxSource, buffer: int, size: int) -> BoxArgument:
    strides = tuple(stride * size for stride in source.strides)
    return BoxArgument(buffer, source.offset * size, size, source.shape, strides, source.box)
