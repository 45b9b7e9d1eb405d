"""What a program needs from the machine that runs its kernels, whether a GPU or the emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from graphc.errors import CompilerBug, UserError
from graphc.ir.source import SourceFile

TENSOR_MAP_BYTES = 128
SWIZZLES = (0, 32, 64, 128)

Extent = tuple[int, int, int]  # x, y, z


@dataclass(frozen=True)
class DeviceMemory:
    """A stretch of the device's memory."""

    address: int
    bytes: int

    def part(self, offset: int, size: int) -> DeviceMemory:
        """A stretch of this stretch; a kernel that is given it may touch nothing around it."""
        if offset < 0 or size < 0 or offset + size > self.bytes:
            raise CompilerBug(f"{size} bytes at {offset} do not lie within {self.bytes} bytes")
        return DeviceMemory(self.address + offset, size)


@dataclass(frozen=True)
class TensorBox:
    """A tensor in device memory and the box of it that one ``gc_tma_load`` copies.

    Dimensions are outermost first, as in NumPy, and strides are in bytes; the coordinates of
    ``gc_tma_load`` are innermost first.
    """

    memory: DeviceMemory
    element_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int = 0

    def __post_init__(self) -> None:
        for wrong, rule in self._rules():
            if wrong:
                raise CompilerBug(f"a tensor map cannot be made: {rule}\n  for: {self!r}")

    def _rules(self) -> tuple[tuple[bool, str], ...]:
        rank, row = len(self.shape), self.box[-1] * self.element_bytes
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=False))
        return (
            (not 2 <= rank <= 5, "it has 2 to 5 dimensions"),
            (len(self.strides) != rank or len(self.box) != rank, "the ranks differ"),
            (self.element_bytes not in (1, 2, 4, 8), "an element has 1, 2, 4 or 8 bytes"),
            (min(self.shape) < 1, "no dimension is empty"),
            (self.strides[-1] != self.element_bytes, "the last dimension is contiguous"),
            (any(s % 16 for s in self.strides[:-1]), "strides are multiples of 16 bytes"),
            (self.memory.address % 16 != 0, "the memory starts at a multiple of 16 bytes"),
            (any(not 1 <= n <= 256 for n in self.box), "a box has 1 to 256 elements a dimension"),
            (row % 16 != 0, "a row of the box is a multiple of 16 bytes"),
            (self.swizzle not in SWIZZLES, f"the swizzle is one of {SWIZZLES}"),
            (0 < self.swizzle < row, "a row of the box is at most as long as the swizzle"),
            (last + self.element_bytes > self.memory.bytes, "the tensor lies within its memory"),
        )


@dataclass(frozen=True)
class TensorMap:
    """A tensor box as kernels take it: a ``gc_tensor_map``, by value."""

    box: TensorBox
    data: bytes


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel; ``handle`` means something to its driver only."""

    name: str
    handle: int


@dataclass(frozen=True)
class Graph:
    """Captured launches; ``handle`` means something to their driver only."""

    handle: int


@dataclass(frozen=True)
class Module:
    """Loaded kernels by name, where their sources can be read, and what compiling them took."""

    kernels: Mapping[str, Kernel]
    folder: Path
    compiled: bool
    seconds: float


class OutOfMemory(UserError):
    """A device has less memory than is needed; sizes in bytes."""

    def __init__(self, device: str, needed: int, free: int, total: int):
        super().__init__(
            f"{device} has too little memory\n"
            f"  needed: {needed / 2**20:,.0f} MiB\n"
            f"  free:   {free / 2**20:,.0f} MiB of {total / 2**20:,.0f}\n"
            "  Take a smaller batch, or end other programs that use the device."
        )
        self.needed, self.free, self.total = needed, free, total


Progress = Callable[[int, int, str], None]
Argument = DeviceMemory | TensorMap | np.generic


class Driver(Protocol):
    """One device. Launches are queued in order; what copies memory waits for them.

    A kernel that breaks a rule raises ``KernelFault`` from the launch or from whatever waits next.
    """

    @property
    def name(self) -> str:
        """The device, for people."""

    @property
    def architecture(self) -> str:
        """What kernels are made for, such as "sm_90a"."""

    def allocate(self, size: int) -> DeviceMemory:
        """New memory of so many bytes, at a multiple of 256; nothing is known of what it holds."""

    def free(self, memory: DeviceMemory) -> None:
        """Give back what ``allocate`` gave."""

    def check_room(self, size: int) -> None:
        """Raise ``OutOfMemory`` where so many bytes, in several pieces, are not free."""

    def copy_to(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Copy a contiguous array to the start of the memory."""

    def copy_from(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Fill a contiguous array from the start of the memory."""

    def pinned(self, size: int) -> np.ndarray:
        """Bytes of the host from which ``copy_ahead`` copies, given back with the array."""

    def copy_ahead(self, memory: DeviceMemory, array: np.ndarray) -> None:
        """Begin to copy a pinned array to the start of the memory, beside what is under way.

        Until ``await_copies`` the array stays as it is, and nobody touches the memory.
        """

    def await_copies(self) -> None:
        """What is launched from here on waits for the copies that ``copy_ahead`` began."""

    def await_others(self) -> None:
        """Wait for what other libraries do on the device, such as writing an array that is fed."""

    def encode(self, box: TensorBox) -> TensorMap:
        """The tensor map of a box."""

    def copy(self, target: DeviceMemory, source: DeviceMemory) -> None:
        """Copy all of ``source`` to the start of ``target``, which it does not overlap."""

    def load(
        self, files: Sequence[SourceFile], net: str = "kernels", progress: Progress | None = None
    ) -> Module:
        """The kernels of CUDA sources; compiled once for one set of texts.

        ``progress`` gets the files compiled, their number and the name of the last.
        """

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        shared_bytes: int,
        arguments: Sequence[Argument],
        reaches: Sequence[DeviceMemory] = (),
    ) -> None:
        """Run a kernel; ``reaches`` is memory to which it finds pointers in other memory."""

    def begin_capture(self) -> None:
        """From here on launches are recorded and not run; nothing else may be called."""

    def end_capture(self) -> Graph:
        """What was recorded since ``begin_capture``."""

    def replay(self, graph: Graph) -> None:
        """Run what was recorded, in order."""

    def release(self, graph: Graph) -> None:
        """Forget what was recorded."""

    def synchronize(self) -> None:
        """Wait for all launches."""

    def seconds(self, call: Callable[[], None]) -> float:
        """How long the device works on what ``call`` launches."""
