"""Library -> Program: arrays, the arena, and calls without copying arguments."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.backends.base import (
    KernelInfo,
    aligned_bytes,
    check_known,
    checked_feed,
    checked_shared,
    initial_value,
    thread_count,
)
from graphc.backends.c.build import BuiltLibrary, load
from graphc.backends.c.emit import Emitted
from graphc.ir.graph import Node
from graphc.ir.loops import Routine
from graphc.ir.schedule import Buffer, Schedule

_PAGE = 2 << 20


class Program:
    """A compiled graph: call it with arrays by input name, get the outputs as new arrays.

    Attributes:
        parameters, states: name -> array, updated in place by each call that assigns them.
        kernels: name -> KernelInfo in execution order.
        folder: where the generated sources can be read.
        arena_bytes, workspace_bytes: exact memory for intermediate values and packing.
    """

    def __init__(
        self, schedule: Schedule, routines: Sequence[Routine], emitted: Emitted,
        library: BuiltLibrary, limits: Mapping[Node, int], shared: Mapping[str, np.ndarray],
        seed: int, threads: int | None,
    ) -> None:  # fmt: skip
        self.schedule = schedule
        self.routines = tuple(routines)
        self.folder = library.folder
        self.compiled = library.compiled
        self.compile_seconds = library.seconds
        self.threads = thread_count(threads)
        self.kernels = _kernel_infos(schedule, routines, emitted)
        self.arena_bytes = schedule.arena_bytes
        self.workspace_bytes = emitted.shared_bytes + emitted.private_bytes * self.threads
        self._owner = self._forked = os.getpid()
        self._lock = threading.Lock()
        self._run = load(library.path).graphc_run
        self._run.restype = None
        self._inputs = tuple(b.node for b in schedule.buffers if b.storage == "feed")
        self._limits = limits
        self._arena = aligned_bytes(self.arena_bytes, _PAGE)
        self._workspace = aligned_bytes(self.workspace_bytes, _PAGE)
        self._fixed = [_fixed_array(b, shared, seed, self._arena) for b in schedule.buffers]
        named = list(zip(schedule.buffers, self._fixed, strict=True))
        self.parameters = {
            b.name: a for b, a in named if b.node.kind == "parameter" and a is not None
        }
        self.states = {b.name: a for b, a in named if b.node.kind == "state" and a is not None}

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The inputs that a call must be given."""
        return self._inputs

    def __call__(self, **feeds: Any) -> list[np.ndarray]:
        """Run once.

        Raises:
            UserError: a feed is missing, unknown, of the wrong shape or type, or a label is out
                of range.
        """
        return self._call(feeds, None)

    def profile(self, **feeds: Any) -> dict[str, float]:
        """Run once; seconds by kernel name."""
        seconds = np.zeros(len(self.routines))
        self._call(feeds, seconds)
        return {r.name: float(s) for r, s in zip(self.routines, seconds, strict=True)}

    def _call(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        check_known(feeds, self._inputs)
        if os.getpid() != self._forked:  # the lock may have been held at the fork
            self._lock, self._forked = threading.Lock(), os.getpid()
        with self._lock:
            arrays = [
                fixed if fixed is not None else self._call_array(buffer, feeds)
                for buffer, fixed in zip(self.schedule.buffers, self._fixed, strict=True)
            ]
            pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
            # After a fork the OpenMP threads of the parent do not exist: a team of one needs none.
            threads = self.threads if os.getpid() == self._owner else 1
            clock = None if seconds is None else ctypes.c_void_p(seconds.ctypes.data)
            self._run(pointers, ctypes.c_void_p(self._workspace.ctypes.data), threads, clock)
            results = [self._result(node, arrays) for node in self.schedule.graph.outputs]
            self._copy_assigned(arrays)
        return results

    def _call_array(self, buffer: Buffer, feeds: Mapping[str, Any]) -> np.ndarray:
        if buffer.storage == "feed":
            return checked_feed(buffer.node, feeds, self._limits.get(buffer.node))
        return np.empty(buffer.shape, buffer.dtype.numpy)

    def _result(self, node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
        place = self.schedule.places[node]
        array = arrays[place].reshape(node.shape)
        return array if self.schedule.buffers[place].storage == "output" else array.copy()

    def _copy_assigned(self, arrays: Sequence[np.ndarray]) -> None:
        """Assignments whose kernel could not write into the state directly."""
        places = self.schedule.places
        moves = [
            (arrays[places[a.state]], arrays[places[a.value]].reshape(a.state.shape).copy())
            for a in self.schedule.graph.assignments
            if a.state in places and places[a.value] != places[a.state]
        ]
        for target, value in moves:
            target[...] = value


def _kernel_infos(
    schedule: Schedule, routines: Sequence[Routine], emitted: Emitted
) -> dict[str, KernelInfo]:
    sources = {file.name: file.text for file in emitted.files}
    return {
        r.name: KernelInfo(
            r.name, r.title, sources[f"{r.name}.c"], str(plan.nodes[0].location), r.flops, r.bytes,
            f"{plan.strategy}: {plan.reason}",
        )
        for r, plan in zip(routines, schedule.kernels, strict=True)
    }  # fmt: skip


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
