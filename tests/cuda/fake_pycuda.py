"""What ``Gpu`` uses of PyCUDA and libcuda, on the emulator: its calls, their order, the packing.

Arguments arrive as PyCUDA packs them and are taken apart by the kernel's own parameter sizes.
"""

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np

from graphc.backends.cuda.driver import Argument, DeviceMemory, Kernel, TensorBox, TensorMap
from graphc.backends.cuda.emulator import Emulator
from graphc.ir.source import SourceFile


class FakeError(Exception):
    """pycuda.driver.Error."""


class FakeMemoryError(FakeError):
    """pycuda.driver.MemoryError."""


class FakeCuda:
    """The module pycuda.driver, and LibCuda's calls for graphs, of one made-up device."""

    Error, MemoryError = FakeError, FakeMemoryError
    function_attribute = SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="shared")

    def __init__(self, capability: tuple[int, int] = (9, 0), total: int = 1 << 30) -> None:
        self.emulator = Emulator(1)
        self.capability, self.total, self.used = capability, total, 0
        self.calls: list[str] = []
        self.contexts = self.streams = 0
        self.Context = SimpleNamespace(synchronize=lambda: self.calls.append("synchronize"))
        self.memory: dict[int, DeviceMemory] = {}
        self.maps: dict[bytes, TensorMap] = {}
        self.Device = self._device

    class _Allocation(int):
        """A DeviceAllocation: its address is its value."""

        cuda: Any
        size: int

        def free(self) -> None:
            self.cuda.used -= self.size
            self.cuda.emulator.free(self.cuda.memory.pop(int(self)))

    def init(self) -> None:
        self.calls.append("init")

    def get_driver_version(self) -> int:
        return 12040

    def mem_get_info(self) -> tuple[int, int]:
        return self.total - self.used, self.total

    def mem_alloc(self, size: int) -> Any:
        self._inside()
        if size > self.total - self.used:
            raise FakeMemoryError("out of memory")
        memory = self.emulator.allocate(size)
        self.memory[memory.address] = memory
        self.used += size
        held = self._Allocation(memory.address)
        held.cuda, held.size = self, size
        return held

    def memcpy_htod_async(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._inside()
        if stream.handle == 77:
            self.emulator.copy_to(self._part(address, array.nbytes), array)
            return
        self.calls.append("ahead")
        self.emulator.copy_ahead(self._part(address, array.nbytes), array)

    def memcpy_dtoh_async(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._inside()
        self.emulator.copy_from(self._part(address, array.nbytes), array)

    def memcpy_dtod_async(self, target: int, source: int, size: int, stream: Any) -> None:
        self._inside()
        self.emulator.copy(self._part(target, size), self._part(source, size))

    def module_from_buffer(self, code: bytes) -> Any:
        self._inside()
        if not code.startswith(b"#include"):
            raise FakeError("no kernel image is available")
        module = self.emulator.load([SourceFile("kernel.cu", code.decode())])
        return SimpleNamespace(get_function=lambda name: FakeFunction(self, module.kernels[name]))

    def pagelocked_empty(self, size: int, dtype: Any) -> np.ndarray:
        self._inside()
        assert np.dtype(dtype).itemsize == 1
        return self.emulator.pinned(size)

    def Stream(self) -> Any:
        """A driver's first is that of launches, 77; copies on its second end when an event is
        waited for.
        """
        handle = 77 + self.streams % 2
        self.streams += 1
        stream = SimpleNamespace(handle=handle, synchronize=self.emulator.synchronize)
        stream.wait_for_event = self._wait_for_event
        return stream

    def Event(self) -> Any:
        event = SimpleNamespace(recorded=None, synchronize=lambda: None)
        event.record = lambda stream: setattr(event, "recorded", stream)
        event.time_since = lambda other: 2.5
        return event

    def _wait_for_event(self, event: Any) -> None:
        assert event.recorded.handle != 77, "the stream of launches waits for itself"
        self.calls.append("await")
        self.emulator.await_copies()

    def _device(self, number: int) -> Any:
        context = SimpleNamespace(push=self._push, pop=self._pop)
        return SimpleNamespace(
            retain_primary_context=lambda: context, name=lambda: "made-up GPU",
            compute_capability=lambda: self.capability,
        )  # fmt: skip

    def _push(self) -> None:
        self.contexts += 1

    def _pop(self) -> None:
        self.contexts -= 1

    def _inside(self) -> None:
        assert self.contexts, "no context is current"

    def _part(self, address: int, size: int) -> DeviceMemory:
        for start, memory in self.memory.items():
            if start <= address and address + size <= start + memory.bytes:
                return memory.part(address - start, size)
        raise AssertionError("an address that was not allocated")

    # LibCuda
    def tensor_map(self, box: TensorBox) -> bytes:
        made = self.emulator.encode(box)
        self.maps[made.data] = made
        return made.data

    def begin_capture(self, stream: int) -> None:
        assert stream == 77
        self.calls.append("begin")
        self.emulator.begin_capture()

    def end_capture(self, stream: int) -> int:
        self.calls.append("end")
        return self.emulator.end_capture().handle

    def launch_graph(self, graph: int, stream: int) -> None:
        self.calls.append("replay")
        self.emulator.replay(SimpleNamespace(handle=graph))  # type: ignore[arg-type]

    def destroy_graph(self, graph: int) -> None:
        self.calls.append("destroy")


class FakeFunction:
    """A Function: ``prepare`` gives the formats, the call packs its values with them."""

    def __init__(self, cuda: FakeCuda, kernel: Kernel):
        self.cuda, self.kernel = cuda, kernel
        self.formats, self.most_shared = "", 48 << 10

    def set_attribute(self, attribute: str, value: int) -> None:
        assert attribute == "shared"
        self.most_shared = value

    def prepare(self, formats: list[str]) -> None:
        self.formats = "".join(formats)

    def prepared_async_call(
        self, grid: Any, block: Any, stream: Any, *values: Any, shared_size: int = 0
    ) -> None:
        self.cuda._inside()
        assert shared_size <= self.most_shared
        maps = self.formats.count("128s")
        assert self.formats == "128s" * maps + "P" * (len(values) - maps), "maps, then arrays"
        packed = struct.unpack(self.formats, struct.pack(self.formats, *values))
        arguments: list[Argument] = [self.cuda.maps[data] for data in packed[:maps]]
        arguments += [self._reached(address) for address in packed[maps:]]
        self.cuda.emulator.launch(self.kernel, grid, block, shared_size, arguments)

    def _reached(self, address: int) -> DeviceMemory:
        """From the address to the end of its allocation."""
        for start, memory in self.cuda.memory.items():
            if start <= address < start + max(memory.bytes, 1):
                return memory.part(address - start, memory.bytes - (address - start))
        raise AssertionError("an address that was not allocated")
