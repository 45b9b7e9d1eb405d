"""The driver of the emulator: the target ``cuda-emu``, on which CUDA text runs without a GPU."""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphc.backends.base import aligned_bytes
from graphc.backends.c.build import load
from graphc.backends.cuda.architecture import OLDEST
from graphc.backends.cuda.driver import (
    TENSOR_MAP_BYTES,
    Argument,
    DeviceMemory,
    Extent,
    Graph,
    Kernel,
    Module,
    Progress,
    TensorBox,
    TensorMap,
)
from graphc.backends.cuda.emulator_build import build_emulated, cluster_sizes
from graphc.backends.cuda.fault import SEED_VARIABLE, Fault, KernelFault, source_line
from graphc.errors import CompilerBug, UserError
from graphc.ir.source import SourceFile

POISON = 0xFF  # NaN as float, double, bf16 and half
_ALIGNMENT = 256
_MOST_PARAMETERS = 512
_TENSOR_MAP = struct.Struct("<Q5I5I5QBBBBI")
_TENSOR_MAP_MAGIC = 0x70616D67
_ONE_LAUNCH = threading.Lock()  # a library runs one block at a time, whoever loaded it


class _Index(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32))

    def extent(self) -> Extent:
        return (int(self.x), int(self.y), int(self.z))


class _Region(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64), ("bytes", ctypes.c_uint64),
        ("written", ctypes.c_uint64), ("parameter", ctypes.c_uint64),
    )  # fmt: skip


class _Launch(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("regions", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p), ("array_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64), ("region_count", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32), ("grid", _Index), ("block", _Index),
        ("cluster", ctypes.c_uint32),
    )  # fmt: skip


class _Failure(ctypes.Structure):
    _fields_ = (
        ("what", ctypes.c_char * 1024), ("offset", ctypes.c_uint64), ("block", _Index),
        ("thread", _Index), ("line", ctypes.c_int32), ("in_thread", ctypes.c_int32),
    )  # fmt: skip


@dataclass(frozen=True)
class _Allocation:
    data: np.ndarray
    written: np.ndarray  # a flag for each byte
    memory: DeviceMemory


@dataclass(frozen=True)
class _Loaded:
    name: str
    file: str
    path: Path
    library: ctypes.CDLL
    sizes: tuple[int, ...]  # bytes of each parameter
    cluster: int


@dataclass(frozen=True)
class _Recorded:
    kernel: Kernel
    grid: Extent
    block: Extent
    shared_bytes: int
    arguments: tuple[Argument, ...]
    reaches: tuple[DeviceMemory, ...]


class Emulator:
    """A device that runs kernels on this processor, checks each of their steps, and forgives none.

    Threads and blocks run in an order drawn from ``seed``, else from GRAPHC_EMULATOR_SEED, else by
    chance; the results of a correct kernel do not depend on it. New memory is poison.
    """

    name = "cuda-emu"
    architecture = OLDEST  # unless asked otherwise; it runs the kernels of all

    def __init__(self, seed: int | None = None):
        self.seed = _seed() if seed is None else seed
        self._allocations: dict[int, _Allocation] = {}
        self._kernels: list[_Loaded] = []
        self._graphs: dict[int, tuple[_Recorded, ...]] = {}
        self._numbers = itertools.count()
        self._recording: list[_Recorded] | None = None
        self._pinned: dict[int, int] = {}  # bytes by address
        self._ahead: list[tuple[DeviceMemory, np.ndarray]] = []

    def allocate(self, size: int) -> DeviceMemory:
        """New memory of so many bytes, poisoned and marked as not written."""
        self._not_while_recording("allocate")
        data = aligned_bytes(max(size, 1), _ALIGNMENT)
        memory = DeviceMemory(data.ctypes.data, size)
        written = np.zeros(max(size, 1), np.uint8)
        self._allocations[memory.address] = _Allocation(data, written, memory)
        self.poison(memory)
        return memory

    def free(self, memory: DeviceMemory) -> None:
        """Give back what ``allocate`` gave."""
        self._not_while_recording("free")
        if self._allocations.pop(memory.address, None) is None:
            raise CompilerBug("this memory was not allocated, or it is freed already")

    def copy_to(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Copy a contiguous array to the start of the memory."""
        self._not_while_recording("copy_to")
        data, written = self._stretch(memory, array.nbytes)
        data[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        written[:] = 1

    def copy_from(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Fill a contiguous array from the start of the memory, whether written or poison."""
        self._not_while_recording("copy_from")
        data, _ = self._stretch(memory, array.nbytes)
        array.reshape(-1).view(np.uint8)[:] = data

    def check_room(self, size: int) -> None:
        """The processor's memory is not counted."""

    def pinned(self, size: int) -> np.ndarray:
        """Bytes that ``copy_ahead`` may copy."""
        array = aligned_bytes(max(size, 1), _ALIGNMENT)
        self._pinned[array.ctypes.data] = size
        weakref.finalize(array.base, self._pinned.pop, array.ctypes.data, None).atexit = False
        return array[:size]

    def copy_ahead(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Begin a copy: the memory is poison, and what is copied is what the array holds later."""
        self._not_while_recording("copy_ahead")
        start, size = array.ctypes.data, array.nbytes
        if not any(a <= start and start + size <= a + n for a, n in self._pinned.items()):
            raise CompilerBug("copy_ahead takes arrays in memory that `pinned` gave")
        self.poison(memory.part(0, size))
        self._ahead.append((memory, array))

    def await_copies(self) -> None:
        """Copy what was begun."""
        for memory, array in self._ahead:
            self.copy_to(memory, array)
        self._ahead.clear()

    def await_others(self) -> None:
        """Nobody else works on this device."""

    def poison(self, memory: DeviceMemory) -> None:
        """Make the memory unwritten: what a launch has to write is poisoned before it."""
        data, written = self._stretch(memory, memory.bytes)
        data[:] = POISON
        written[:] = 0

    def first_unwritten(self, memory: DeviceMemory) -> int | None:
        """The first byte that no copy and no kernel has written since it was poisoned."""
        _, written = self._stretch(memory, memory.bytes)
        holes = np.flatnonzero(written == 0)
        return int(holes[0]) if len(holes) else None

    def encode(self, box: TensorBox) -> TensorMap:
        """The tensor map of a box, in the emulator's own format."""

        def five(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(reversed(values)) + (1,) * (5 - len(values))

        data = _TENSOR_MAP.pack(
            box.memory.address, *five(box.shape), *five(box.box), *five(box.strides),
            len(box.shape), box.element_bytes, box.swizzle, 0, _TENSOR_MAP_MAGIC,
        )  # fmt: skip
        return TensorMap(box, data.ljust(TENSOR_MAP_BYTES, b"\0"))

    def copy(self, target: DeviceMemory, source: DeviceMemory) -> None:
        """Copy all of ``source`` to the start of ``target``, written or not."""
        self._not_while_recording("copy")
        to, flags = self._stretch(target, source.bytes)
        data, written = self._stretch(source, source.bytes)
        to[:], flags[:] = data, written

    def load(
        self, files: Sequence[SourceFile], net: str = "kernels", progress: Progress | None = None
    ) -> Module:
        """The kernels of CUDA sources, compiled with g++."""
        self._not_while_recording("load")
        built = build_emulated(net, files, progress)
        library = load(built.path)
        kernels = {}
        clusters = {name: size for f in files for name, size in cluster_sizes(f).items()}
        for name, file in built.kernels.items():
            kernels[name] = Kernel(name, len(self._kernels))
            sizes = _parameter_sizes(library, name)
            cluster = clusters[name]
            self._kernels.append(_Loaded(name, file, built.path, library, sizes, cluster))
        return Module(kernels, built.path.parent, built.compiled, built.seconds)

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        shared_bytes: int,
        arguments: Sequence[Argument],
        reaches: Sequence[DeviceMemory] = (),
    ) -> None:
        """Run a kernel to its end, or record it.

        Raises:
            KernelFault: the kernel broke a rule.
        """
        loaded = self._kernels[kernel.handle]
        _check_arguments(loaded, arguments)
        recorded = _Recorded(kernel, grid, block, shared_bytes, tuple(arguments), tuple(reaches))
        if self._recording is not None:
            self._recording.append(recorded)
            return
        with _ONE_LAUNCH:
            self._run(loaded, recorded)

    def begin_capture(self) -> None:
        """From here on launches are recorded and not run."""
        self._not_while_recording("begin_capture")
        self._recording = []

    def end_capture(self) -> Graph:
        """What was recorded since ``begin_capture``."""
        if self._recording is None:
            raise CompilerBug("end_capture without begin_capture")
        graph = Graph(next(self._numbers))
        self._graphs[graph.handle] = tuple(self._recording)
        self._recording = None
        return graph

    def replay(self, graph: Graph) -> None:
        """Run what was recorded, in order."""
        self._not_while_recording("replay")
        for item in self._graphs[graph.handle]:
            self.launch(
                item.kernel, item.grid, item.block, item.shared_bytes, item.arguments, item.reaches
            )

    def release(self, graph: Graph) -> None:
        """Forget what was recorded."""
        del self._graphs[graph.handle]

    def synchronize(self) -> None:
        """Nothing is under way after a launch."""
        self._not_while_recording("synchronize")

    def seconds(self, call: Callable[[], None]) -> float:
        """The emulator's own time, which says nothing about a device."""
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    def _not_while_recording(self, what: str) -> None:
        if self._recording is not None:
            raise CompilerBug(f"{what} between begin_capture and end_capture")

    def _stretch(self, memory: DeviceMemory, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of the memory's first ``size`` bytes, and their flags."""
        if size > memory.bytes:
            raise CompilerBug(f"{size} bytes do not fit into {memory.bytes} bytes of memory")
        for held in self._allocations.values():
            start = memory.address - held.memory.address
            if start >= 0 and start + memory.bytes <= held.memory.bytes:
                return held.data[start : start + size], held.written[start : start + size]
        raise CompilerBug("this memory was not allocated, or it is freed already")

    def _run(self, loaded: _Loaded, item: _Recorded) -> None:
        regions = self._regions(item)
        values, pointers = _packed(item.arguments)
        call = ctypes.cast(getattr(loaded.library, f"{loaded.name}_emulated"), ctypes.c_void_p)
        arrays, array_bytes = _shared_arrays(loaded.library, loaded.name)
        request = _Launch(
            call, ctypes.addressof(pointers), ctypes.addressof(regions), arrays, array_bytes,
            self.seed, len(regions), item.shared_bytes, _Index(*item.grid), _Index(*item.block),
            loaded.cluster,
        )  # fmt: skip
        failure = _Failure()
        run = loaded.library.gc_emulator_launch
        if run(ctypes.byref(request), ctypes.byref(failure)):
            raise KernelFault(self._fault(loaded, failure))
        del values  # the pointers lead into it

    def _regions(self, item: _Recorded) -> ctypes.Array[_Region]:
        """What the launch may touch, by address; stretches that overlap become one."""
        given = [(memory, number) for number, memory in _memories(item)]
        merged: list[_Region] = []
        for memory, number in sorted(given, key=lambda pair: pair[0].address):
            last = merged[-1] if merged else None
            if last is not None and memory.address < last.address + last.bytes:
                end = max(last.address + last.bytes, memory.address + memory.bytes)
                last.bytes = end - last.address
            elif memory.bytes:
                _, written = self._stretch(memory, memory.bytes)
                merged.append(_Region(memory.address, memory.bytes, written.ctypes.data, number))
        return (_Region * len(merged))(*merged)

    def _fault(self, loaded: _Loaded, failure: _Failure) -> Fault:
        line = failure.line or source_line(loaded.path, loaded.file, failure.offset)
        thread = failure.thread.extent() if failure.in_thread else None
        what = failure.what.decode(errors="replace")
        block = failure.block.extent()
        return Fault(loaded.name, what, loaded.file, line, block, thread, self.seed)


def _seed() -> int:
    asked = os.environ.get(SEED_VARIABLE, "").strip()
    if not asked:
        return secrets.randbits(32)
    if not (asked.isascii() and asked.isdigit() and int(asked) < 2**64):
        raise UserError(
            f"the environment variable {SEED_VARIABLE} has an illegal value\n"
            f"  value: {asked!r}\n  legal: a whole number below 2**64"
        )
    return int(asked)


def _shared_arrays(library: ctypes.CDLL, name: str) -> tuple[int | None, int]:
    """Where the ``__shared__`` arrays of a kernel's file are, and their bytes."""
    start, find = ctypes.c_void_p(), getattr(library, f"{name}_shared")
    find.restype = ctypes.c_size_t
    size = find(ctypes.byref(start))
    return start.value, size


def _parameter_sizes(library: ctypes.CDLL, name: str) -> tuple[int, ...]:
    sizes = (ctypes.c_uint32 * _MOST_PARAMETERS)()
    return tuple(sizes[: getattr(library, f"{name}_parameters")(sizes)])


def _check_arguments(loaded: _Loaded, arguments: Sequence[Argument]) -> None:
    given = tuple(len(_argument_bytes(argument)) for argument in arguments)
    if given != loaded.sizes:
        raise CompilerBug(
            f"{loaded.file}: kernel {loaded.name} gets arguments that do not fit its parameters\n"
            f"  bytes of each parameter: {list(loaded.sizes)}\n"
            f"  bytes of each argument:  {list(given)}"
        )


def _argument_bytes(argument: Argument) -> bytes:
    if isinstance(argument, DeviceMemory):
        return struct.pack("<Q", argument.address)
    return argument.data if isinstance(argument, TensorMap) else argument.tobytes()


def _memories(item: _Recorded) -> list[tuple[int, DeviceMemory]]:
    """The stretches that a launch is given, with the number of the parameter."""
    found = [
        (number, given.box.memory if isinstance(given, TensorMap) else given)
        for number, given in enumerate(item.arguments)
        if isinstance(given, DeviceMemory | TensorMap)
    ]
    return found + [(len(item.arguments), memory) for memory in item.reaches]


def _packed(arguments: Sequence[Argument]) -> tuple[np.ndarray, ctypes.Array[ctypes.c_void_p]]:
    """The arguments one after the other, each aligned as a tensor map is, and pointers to them."""
    values = aligned_bytes(TENSOR_MAP_BYTES * max(len(arguments), 1), TENSOR_MAP_BYTES)
    for number, argument in enumerate(arguments):
        data = _argument_bytes(argument)
        start = number * TENSOR_MAP_BYTES
        values[start : start + len(data)] = np.frombuffer(data, np.uint8)
    first = values.ctypes.data
    addresses = [first + number * TENSOR_MAP_BYTES for number in range(len(arguments))]
    return values, (ctypes.c_void_p * len(addresses))(*addresses)
