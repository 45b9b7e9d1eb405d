"""The driver of an NVIDIA GPU: PyCUDA on the device's primary context, so that other libraries in
the process see the same memory. Imported with nothing installed; PyCUDA only when it is opened.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphc.backends.cuda.compile import compile_sources, find_device_compiler
from graphc.backends.cuda.driver import (
    Argument,
    DeviceMemory,
    Extent,
    Graph,
    Kernel,
    Module,
    OutOfMemory,
    Progress,
    TensorBox,
    TensorMap,
)
from graphc.backends.cuda.emulator_build import kernel_names
from graphc.backends.cuda.libcuda import LibCuda
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile

_LARGE_SHARED = 48 << 10  # bytes of shared memory from which a kernel has to ask for more
_FIRST = (8, 0)  # the oldest capability that the kernels are for
_NEEDS = "the target 'cuda' needs"
_OTHERWISE = "Without a GPU, target='cuda-emu' runs the same CUDA text on this processor."


class Gpu:
    """One GPU. Work is queued on one stream; see ``Driver`` for the rules."""

    def __init__(self, number: int = 0):
        self._cuda = _pycuda()
        self._library = LibCuda()
        self._device = self._cuda.Device(number)
        self._context = self._device.retain_primary_context()
        self._threads = threading.local()
        self._process = os.getpid()
        self._enter()
        atexit.register(self._leave)
        self._stream, self._copies = self._cuda.Stream(), self._cuda.Stream()
        self._allocations: dict[int, Any] = {}
        self._functions: list[Any] = []
        self._modules: list[Any] = []
        major, minor = self._device.compute_capability()
        self.name = str(self._device.name())
        self.architecture = f"sm_{major}{minor}{'a' if major >= 9 else ''}"
        if (major, minor) < _FIRST:
            raise ToolchainError(
                f"{_NEEDS} a GPU of compute capability 8.0 or later; {self.name} has "
                f"{major}.{minor}\n  {_OTHERWISE}"
            )

    def allocate(self, size: int) -> DeviceMemory:
        """New memory; what it holds is not known.

        Raises:
            OutOfMemory: there is not so much; the message says how much there is.
        """
        self._enter()
        try:
            held = self._cuda.mem_alloc(max(size, 1))
        except self._cuda.MemoryError:
            free, total = self._cuda.mem_get_info()
            raise OutOfMemory(self.name, size, int(free), int(total)) from None
        self._allocations[int(held)] = held
        return DeviceMemory(int(held), size)

    def free(self, memory: DeviceMemory) -> None:
        """Give back what ``allocate`` gave."""
        if os.getpid() != self._process:  # the memory is the parent's
            return
        self._enter()
        held = self._allocations.pop(memory.address, None)
        if held is None:
            raise CompilerBug("this memory was not allocated, or it is freed already")
        self.synchronize()
        held.free()

    def check_room(self, size: int) -> None:
        """Raise ``OutOfMemory`` where so many bytes are not free, even without dead arrays."""
        self._enter()
        free, total = map(int, self._cuda.mem_get_info())
        if size > free:
            gc.collect()
            free, total = map(int, self._cuda.mem_get_info())
        if size > free:
            raise OutOfMemory(self.name, size, free, total)

    def copy_to(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Copy a contiguous array to the start of the memory."""
        self._enter()
        self._check_size(memory, array.nbytes)
        self._cuda.memcpy_htod_async(memory.address, np.ascontiguousarray(array), self._stream)
        self._stream.synchronize()

    def copy_from(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Fill a contiguous array from the start of the memory."""
        self._enter()
        self._check_size(memory, array.nbytes)
        self._cuda.memcpy_dtoh_async(array, memory.address, self._stream)
        self._stream.synchronize()

    def copy(self, target: DeviceMemory, source: DeviceMemory) -> None:
        """Copy all of ``source`` to the start of ``target``."""
        self._enter()
        self._check_size(target, source.bytes)
        self._cuda.memcpy_dtod_async(target.address, source.address, source.bytes, self._stream)

    def pinned(self, size: int) -> np.ndarray:
        """Page-locked bytes of the host."""
        self._enter()
        locked: np.ndarray = self._cuda.pagelocked_empty(max(size, 1), np.uint8)
        return locked[:size]

    def copy_ahead(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Queue a copy on a stream of its own."""
        self._enter()
        self._check_size(memory, array.nbytes)
        self._cuda.memcpy_htod_async(memory.address, array, self._copies)

    def await_copies(self) -> None:
        """Let what is launched from here on wait for the other stream."""
        self._enter()
        done = self._cuda.Event()
        done.record(self._copies)
        self._stream.wait_for_event(done)

    def await_others(self) -> None:
        """Wait for all streams of the context, which other libraries share."""
        self._enter()
        self._cuda.Context.synchronize()

    def encode(self, box: TensorBox) -> TensorMap:
        """The tensor map of a box."""
        self._enter()
        return TensorMap(box, self._library.tensor_map(box))

    def load(
        self, files: Sequence[SourceFile], net: str = "kernels", progress: Progress | None = None
    ) -> Module:
        """The kernels of CUDA sources, compiled for this device."""
        self._enter()
        built = compile_sources(net, files, (self.architecture,), progress)
        modules: dict[Path, Any] = {}
        kernels = {}
        for file in files:
            cubin = built.cubins[file.name, self.architecture]
            if cubin not in modules:
                modules[cubin] = self._module(cubin.read_bytes(), file.name)
            for name in kernel_names(file):
                kernels[name] = Kernel(name, len(self._functions))
                self._functions.append(modules[cubin].get_function(built.symbols[name]))
        return Module(kernels, built.folder, built.compiled, built.seconds)

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        shared_bytes: int,
        arguments: Sequence[Argument],
        reaches: Sequence[DeviceMemory] = (),
    ) -> None:
        """Queue a kernel."""
        self._enter()
        function = self._functions[kernel.handle]
        if shared_bytes > _LARGE_SHARED:
            attribute = self._cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            function.set_attribute(attribute, shared_bytes)
        formats, values = packed_arguments(arguments)
        function.prepare(formats)
        function.prepared_async_call(grid, block, self._stream, *values, shared_size=shared_bytes)

    def begin_capture(self) -> None:
        """From here on launches are recorded and not run."""
        self._enter()
        self._library.begin_capture(self._stream.handle)

    def end_capture(self) -> Graph:
        """What was recorded since ``begin_capture``."""
        self._enter()
        return Graph(self._library.end_capture(self._stream.handle))

    def replay(self, graph: Graph) -> None:
        """Queue what was recorded."""
        self._enter()
        self._library.launch_graph(graph.handle, self._stream.handle)

    def release(self, graph: Graph) -> None:
        """Forget what was recorded."""
        if os.getpid() == self._process:
            self._enter()
            self._library.destroy_graph(graph.handle)

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        self._enter()
        self._stream.synchronize()

    def seconds(self, call: Callable[[], None]) -> float:
        """Between two events around what ``call`` launches."""
        self._enter()
        before, after = self._cuda.Event(), self._cuda.Event()
        before.record(self._stream)
        call()
        after.record(self._stream)
        after.synchronize()
        return float(after.time_since(before)) * 1e-3

    def _module(self, code: bytes, name: str) -> Any:
        try:
            module = self._cuda.module_from_buffer(code)
        except self._cuda.Error as error:
            release = self._cuda.get_driver_version()
            raise ToolchainError(
                f"{name}: the GPU's driver does not take what was compiled: {error}\n"
                f"  driver:   for CUDA {release // 1000}.{release % 1000 // 10}\n"
                f"  compiler: {find_device_compiler().name}\n"
                f"  {older_compiler_hint(release // 1000)}"
            ) from None
        self._modules.append(module)
        return module

    def _enter(self) -> None:
        """Make the context current in this thread, once."""
        if os.getpid() != self._process:
            raise UserError(
                "a GPU cannot be used in a process that was forked after it was opened\n"
                "  Start processes with the method 'spawn', or compile in the child."
            )
        if not getattr(self._threads, "entered", False):
            self._context.push()
            self._threads.entered = True

    def _leave(self) -> None:
        """PyCUDA wants its stack of contexts empty at the end."""
        if os.getpid() == self._process and getattr(self._threads, "entered", False):
            self._threads.entered = False
            self._context.pop()

    def _check_size(self, memory: DeviceMemory, size: int) -> None:
        if size > memory.bytes:
            raise CompilerBug(f"{size} bytes do not fit into {memory.bytes} bytes of memory")


def packed_arguments(arguments: Sequence[Argument]) -> tuple[list[str], list[Any]]:
    """Formats and values as PyCUDA packs them. A tensor map has 64-byte alignment, which the
    packing does not know, so that maps come first.
    """
    formats: list[str] = []
    values: list[Any] = []
    for argument in arguments:
        if isinstance(argument, TensorMap):
            if any(kind != "128s" for kind in formats):
                raise CompilerBug("tensor maps come before other parameters")
            formats.append("128s")
            values.append(argument.data)
        elif isinstance(argument, DeviceMemory):
            formats.append("P")
            values.append(argument.address)
        else:
            formats.append(argument.dtype.char)
            values.append(argument.item())
    return formats, values


def older_compiler_hint(major: int) -> str:
    """What to do where the driver is older than the compiler; up to 12, wheels name the release."""
    wheel = f"nvidia-cuda-nvrtc-cu{major}" if major < 13 else f"'nvidia-cuda-nvrtc=={major}.*'"
    return (
        "Update the driver, or take a compiler of its major version: "
        f"pip uninstall nvidia-cuda-nvrtc; pip install {wheel}"
    )


def _pycuda() -> Any:
    """PyCUDA's driver module, ready, or the one thing that is missing and how to get it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise ToolchainError(
            f"{_NEEDS} NVIDIA's driver, and libcuda.so.1 is not here\n"
            f"  Install it: apt-get install nvidia-driver (Debian), ubuntu-drivers install "
            f"(Ubuntu), and in a container run it with --gpus all.\n  {_OTHERWISE}"
        ) from None
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise ToolchainError(
            f"{_NEEDS} PyCUDA, which cannot be imported: {error}\n"
            f"  Install it: pip install 'graphc-compiler[cuda]', with g++ and a CUDA toolkit's "
            f"nvcc on the PATH: PyCUDA is compiled on the way.\n  {_OTHERWISE}"
        ) from None
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise ToolchainError(f"{_NEEDS} a GPU: {error}\n  {_OTHERWISE}") from None
    if not count:
        raise ToolchainError(f"{_NEEDS} a GPU, and the driver shows none\n  {_OTHERWISE}")
    return cuda
