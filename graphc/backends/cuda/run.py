"""Kernels on a device -> Program: arrays, the arena, and launches captured once and replayed."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphc.backends.base import Program, checked_shared, initial_value
from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.driver import DeviceMemory, Driver, Graph, Module
from graphc.backends.cuda.emit import Emitted, Launch
from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.routine import Routine
from graphc.ir.schedule import Buffer, Schedule
from graphc.ir.types import element_count
from graphc.ops.messages import describe
from graphc.schedule.memory import Memory, planned_memory


class DeviceProgram(Program):
    """A program whose kernels run on a device.

    ``parameters`` and ``states`` are ``DeviceArray``s: they stay on the device, and programs of one
    device can share them. Feeds are copied to the device, outputs from it.
    """

    language = "CUDA"

    def __init__(
        self, driver: Driver, schedule: Schedule, routines: Sequence[Routine], emitted: Emitted,
        module: Module, limits: Mapping[Node, int], shared: Mapping[str, Any], seed: int,
    ) -> None:  # fmt: skip
        texts = {file.name.removesuffix(".cu"): file.text for file in emitted.files}
        super().__init__(schedule, routines, texts, limits)
        self.driver = driver
        self.machine = driver.name
        self.folder, self.compiled = module.folder, module.compiled
        self.compile_seconds = module.seconds
        self.workspace_bytes = emitted.workspace_bytes
        self._module, self._launches = module, emitted.launches
        self._graph: Graph | None = None
        self._arena = DeviceArray(driver, (self.arena_bytes,), np.dtype(np.uint8))
        self._workspace = DeviceArray(driver, (self.workspace_bytes,), np.dtype(np.uint8))
        self._arrays = [self._array(b, shared, seed) for b in schedule.buffers]
        self._memories = [self._memory(n, b) for n, b in enumerate(schedule.buffers)]
        named = list(zip(schedule.buffers, self._arrays, strict=True))
        self.parameters = {
            b.name: a for b, a in named if b.node.kind == "parameter" and a is not None
        }
        self.states = {b.name: a for b, a in named if b.node.kind == "state" and a is not None}

    def _array(self, buffer: Buffer, shared: Mapping[str, Any], seed: int) -> DeviceArray | None:
        """The array of a buffer; None for those in the arena."""
        if buffer.storage == "arena":
            return None
        given = shared.get(buffer.name) if buffer.storage == "persistent" else None
        if isinstance(given, DeviceArray):
            return _checked_array(buffer.node, given, self.driver)
        array = DeviceArray(self.driver, buffer.shape, buffer.dtype.numpy)
        if buffer.storage == "constant":
            array.write(np.asarray(buffer.node.value).reshape(buffer.shape))
        elif given is not None:
            array.write(checked_shared(buffer.node, given))
        elif buffer.storage == "persistent":
            array.write(initial_value(buffer.node, seed))
        return array

    def _memory(self, number: int, buffer: Buffer) -> DeviceMemory:
        array = self._arrays[number]
        if array is not None:
            return array.memory
        size = element_count(buffer.shape) * buffer.dtype.size
        return self._arena.memory.part(buffer.offset, size)

    def _run(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        for buffer, array in zip(self.schedule.buffers, self._arrays, strict=True):
            if buffer.storage == "feed" and array is not None:
                array.write(self._feed(buffer.node, feeds))
        if seconds is None:
            self.replay()
        else:
            self._profile(seconds)
        results = [self._result(node) for node in self.schedule.graph.outputs]
        self._copy_assigned()
        return results

    def _profile(self, seconds: np.ndarray) -> None:
        """Launch by launch; a routine's time is that of all its launches."""
        numbers = {routine.name: n for n, routine in enumerate(self.routines)}
        seconds[:] = 0.0
        for launch in self._launches:
            spent = self.driver.seconds(partial(self._launch, launch))
            seconds[numbers[launch.routine]] += spent

    @property
    def memory(self) -> Memory:
        """Bytes of device memory by purpose, all of which a program holds from its start."""
        return planned_memory(self.schedule.buffers, self.arena_bytes, self.workspace_bytes)

    def replay(self) -> None:
        """Launch all kernels on what was fed last, as one graph that is made at the first call.

        For measurements: nothing is copied, and nobody waits.
        """
        if self._graph is None:
            self.driver.begin_capture()
            for launch in self._launches:
                self._launch(launch)
            self._graph = self.driver.end_capture()
            weakref.finalize(self, self.driver.release, self._graph).atexit = False
        self.driver.replay(self._graph)

    def run_kernel(self, name: str, arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Run one kernel on arrays of one's own; what the buffers that it writes hold then.

        For checks: arrays and results are in the order of memory, by the number of their buffer in
        the schedule. Parameters and states that the kernel touches are overwritten.
        """
        for number, array in arrays.items():
            self.driver.copy_to(self._memories[number], array)
        for launch in self._launches:
            if launch.routine == name:
                self._launch(launch)
        plan = next(plan for plan in self.schedule.kernels if plan.name == name)
        results = {}
        for number in {self.schedule.places[node] for node in plan.stored}:
            buffer = self.schedule.buffers[number]
            results[number] = np.empty(buffer.shape, buffer.dtype.numpy).reshape(-1)
            self.driver.copy_from(self._memories[number], results[number])
        return results

    def _launch(self, launch: Launch) -> None:
        arguments = [self._memories[number] for number in launch.buffers]
        if launch.workspace:
            arguments.append(self._workspace.memory.part(0, launch.workspace))
        kernel = self._module.kernels[launch.kernel]
        self.driver.launch(kernel, launch.grid, launch.block, launch.shared_bytes, arguments)

    def _result(self, node: Node) -> np.ndarray:
        result = np.empty(node.shape, node.dtype.numpy)
        self.driver.copy_from(self._memories[self.schedule.places[node]], result)
        return result

    def _copy_assigned(self) -> None:
        """Assignments whose kernel could not write into the state; all are read before any."""
        moves = self.schedule.moves
        written = {target for _, target in moves}
        staged = {}
        for source, _ in moves:
            if source in written:
                size = self._memories[source].bytes
                staged[source] = DeviceArray(self.driver, (size,), np.dtype(np.uint8))
                self.driver.copy(staged[source].memory, self._memories[source])
        for source, target in moves:
            held = staged[source].memory if source in staged else self._memories[source]
            self.driver.copy(self._memories[target], held)


def _checked_array(node: Node, array: DeviceArray, driver: Driver) -> DeviceArray:
    """The array of another program on the same device, to be used and updated in place."""
    same = array.driver is driver
    if same and (array.shape, array.dtype) == (node.shape, node.dtype.numpy):
        return array
    raise user_error(
        f"the array given for the {node.kind} '{node.label}' does not fit",
        *describe([node], ["declared"]),
        f"given:    {array!r}",
        f"give an array of that shape and type on {driver.name}, or a NumPy array to start from",
    )
