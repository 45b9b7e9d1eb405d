"""Library -> Program: arrays, the arena, and calls without copying arguments."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.backends.base import (
    Program,
    aligned_bytes,
    checked_shared,
    initial_value,
    thread_count,
)
from graphc.backends.c.build import BuiltLibrary, load
from graphc.backends.c.emit import Emitted
from graphc.ir.graph import Node
from graphc.ir.routine import Routine
from graphc.ir.schedule import Buffer, Schedule

_PAGE = 2 << 20


class HostProgram(Program):
    """A program whose kernels run on this processor; ``threads`` of them at once."""

    language = "C"

    def __init__(
        self, schedule: Schedule, routines: Sequence[Routine], emitted: Emitted,
        library: BuiltLibrary, limits: Mapping[Node, int], shared: Mapping[str, np.ndarray],
        seed: int, threads: int | None,
    ) -> None:  # fmt: skip
        texts = {file.name.removesuffix(".c"): file.text for file in emitted.files}
        super().__init__(schedule, routines, texts, limits)
        self.folder = library.folder
        self.compiled = library.compiled
        self.compile_seconds = library.seconds
        self.threads = thread_count(threads)
        self.machine = f"{self.threads} threads"
        self.workspace_bytes = emitted.shared_bytes + emitted.private_bytes * self.threads
        self._owner = os.getpid()
        self._call_kernels = load(library.path).graphc_run
        self._call_kernels.restype = None
        self._arena = aligned_bytes(self.arena_bytes, _PAGE)
        self._workspace = aligned_bytes(self.workspace_bytes, _PAGE)
        self._fixed = [_fixed_array(b, shared, seed, self._arena) for b in schedule.buffers]
        named = list(zip(schedule.buffers, self._fixed, strict=True))
        self.parameters = {
            b.name: a for b, a in named if b.node.kind == "parameter" and a is not None
        }
        self.states = {b.name: a for b, a in named if b.node.kind == "state" and a is not None}

    def _run(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        arrays = [
            fixed if fixed is not None else self._call_array(buffer, feeds)
            for buffer, fixed in zip(self.schedule.buffers, self._fixed, strict=True)
        ]
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        # After a fork the OpenMP threads of the parent do not exist: a team of one needs none.
        threads = self.threads if os.getpid() == self._owner else 1
        clock = None if seconds is None else ctypes.c_void_p(seconds.ctypes.data)
        self._call_kernels(pointers, ctypes.c_void_p(self._workspace.ctypes.data), threads, clock)
        results = [self._result(node, arrays) for node in self.schedule.graph.outputs]
        self._copy_assigned(arrays)
        return results

    def _call_array(self, buffer: Buffer, feeds: Mapping[str, Any]) -> np.ndarray:
        if buffer.storage == "feed":
            return self._feed(buffer.node, feeds)
        return np.empty(buffer.shape, buffer.dtype.numpy)

    def _result(self, node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
        place = self.schedule.places[node]
        array = arrays[place].reshape(node.shape)
        return array if self.schedule.buffers[place].storage == "output" else array.copy()

    def _copy_assigned(self, arrays: Sequence[np.ndarray]) -> None:
        """Assignments whose kernel could not write into the state directly."""
        moves = [
            (arrays[to], arrays[origin].reshape(arrays[to].shape).copy())
            for origin, to in self.schedule.moves
        ]
        for target, value in moves:
            target[...] = value


def _fixed_array(
    buffer: Buffer, shared: Mapping[str, np.ndarray], seed: int, arena: np.ndarray
) -> np.ndarray | None:
    """The array of a buffer that stays where it is between calls."""
    if buffer.storage == "arena":
        size = int(np.prod(buffer.shape)) * buffer.dtype.size
        return (
            arena[buffer.offset : buffer.offset + size]
            .view(buffer.dtype.numpy)
            .reshape(buffer.shape)
        )
    if buffer.storage == "constant":
        return np.ascontiguousarray(buffer.node.value, buffer.dtype.numpy)
    if buffer.storage != "persistent":
        return None
    if buffer.name not in shared:
        return initial_value(buffer.node, seed)
    return checked_shared(buffer.node, shared[buffer.name])
