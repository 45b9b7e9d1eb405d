"""Candidates of one kernel compiled by the normal build, and run by themselves on random arrays."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence

import numpy as np

from graphc.backends.base import aligned_bytes
from graphc.backends.c.build import build_library, load, worker_count
from graphc.backends.c.emit import headers
from graphc.ir.schedule import Buffer, Schedule
from graphc.ir.source import SourceFile
from graphc.ir.types import element_count
from graphc.schedule.memory import ALIGNMENT
from graphc.tune.kernel import kernel_source
from graphc.tune.variants import Candidate

_PAGE = 2 << 20
_SEED = 0
_PATTERN = 1 << 20  # random numbers that repeat through an array


class Bench:
    """A ``Timer`` of candidates, which stay loaded; arrays are made for the first run."""

    def __init__(self, single: Schedule, threads: int) -> None:
        self.batch = worker_count()
        self._buffers, self._threads = single.buffers, threads
        nodes = single.kernels[0].nodes
        self._halves = any(n.dtype.is_half for node in nodes for n in (node, *node.inputs))
        self._functions: dict[Candidate, Callable[..., None]] = {}
        self._arrays: list[np.ndarray] = []
        self._workspace = np.empty(0, np.uint8)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Compile those that are new, side by side, into one library."""
        new = [c for c in candidates if c not in self._functions]
        names = [f"variant_{len(self._functions) + n}" for n in range(len(new))]
        files = [
            SourceFile(f"{name}.c", kernel_source(c.routine, c.block, name)[0])
            for name, c in zip(names, new, strict=True)
        ]
        shared = headers(self._halves, [c.routine for c in new])
        library = load(build_library("tuning", [*shared, *files]).path)
        for name, candidate in zip(names, new, strict=True):
            function = getattr(library, name)
            function.restype = None
            self._functions[candidate] = function

    def run(self, candidate: Candidate) -> float:
        """Seconds of one run with the program's threads."""
        self._arrays = self._arrays or [random_array(b) for b in self._buffers]
        _, shared, private = candidate.emitted
        needed = shared + private * self._threads
        if self._workspace.size < needed:
            self._workspace = aligned_bytes(needed, _PAGE)
        addresses = [*(a.ctypes.data for a in self._arrays), self._workspace.ctypes.data]
        arguments = [ctypes.c_void_p(address) for address in addresses]
        started = time.perf_counter()
        self._functions[candidate](*arguments, ctypes.c_int(self._threads))
        return time.perf_counter() - started

    def array(self, number: int) -> np.ndarray:
        """The array of a buffer, for whoever compares results."""
        return self._arrays[number]


def random_array(buffer: Buffer) -> np.ndarray:
    """Normal numbers; zeros and ones where nothing is floating. It lies as the arena's arrays do,
    on which whole lines are stored.
    """
    generator = np.random.default_rng(_SEED)
    size = element_count(buffer.shape)
    count = min(size, _PATTERN)
    pattern = (
        generator.standard_normal(count, np.float32)
        if buffer.dtype.is_float
        else generator.integers(0, 2, count)
    )
    dtype = buffer.dtype.numpy
    array = aligned_bytes(size * dtype.itemsize, ALIGNMENT).view(dtype)
    array[...] = np.resize(pattern.astype(dtype), size)
    return array
