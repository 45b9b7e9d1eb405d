"""Kernels on a device -> Program: arrays, the arena, and launches captured once and replayed."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphc.backends.base import (
    Program,
    check_known,
    checked_feed,
    checked_shared,
    initial_value,
)
from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.driver import (
    Argument,
    DeviceMemory,
    Driver,
    Graph,
    Module,
    TensorBox,
    TensorMap,
)
from graphc.backends.cuda.emit import BoxArgument, Emitted, Launch
from graphc.backends.cuda.feeds import Slot, check_foreign
from graphc.backends.cuda.foreign import foreign_array
from graphc.errors import user_error
from graphc.ir.boxes import LINE_BYTES
from graphc.ir.graph import Node
from graphc.ir.routine import Routine
from graphc.ir.schedule import Buffer, Schedule
from graphc.lower.lanes import VECTOR_BYTES
from graphc.ops.messages import describe
from graphc.schedule.memory import Memory, planned_memory

_MOST_GRAPHS = 4  # of a program, one for each set of arrays that it is fed


@dataclass
class _Copy:
    """A rounded copy of an array, what makes it anew, and which version of the array it is of."""

    launch: Launch
    source: DeviceArray
    version: int = -1


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
        super().__init__(schedule, routines[: len(schedule.kernels)], texts, limits)
        self.driver = driver
        self.machine = driver.name
        self.folder, self.compiled = module.folder, module.compiled
        self.compile_seconds = module.seconds
        self.workspace_bytes = emitted.workspace_bytes
        self._module, self._launches = module, emitted.launches
        self._graphs: dict[tuple[int, ...], tuple[Graph, weakref.finalize[..., Any]]] = {}
        self._maps: dict[tuple[BoxArgument, int], TensorMap] = {}
        self._owners: dict[Node, object] = {}  # of arrays that were fed where they are
        driver.check_room(self._needed(shared))
        self._arena = DeviceArray(driver, (self.arena_bytes,), np.dtype(np.uint8))
        self._workspace = DeviceArray(driver, (self.workspace_bytes,), np.dtype(np.uint8))
        self._arrays = [self._array(b, shared, seed) for b in schedule.buffers]
        self._memories = [self._memory(n, b) for n, b in enumerate(schedule.buffers)]
        self._feeds = [(n, b) for n, b in enumerate(schedule.buffers) if b.storage == "feed"]
        named = list(zip(schedule.buffers, self._arrays, strict=True))
        self.parameters = {
            b.name: a for b, a in named if b.node.kind == "parameter" and a is not None
        }
        hidden = {copy.state for copy in schedule.graph.copies}
        self.states = {
            b.name: a for b, a in named
            if b.node.kind == "state" and a is not None and b.node not in hidden
        }  # fmt: skip
        self._copies = [
            _Copy(launch, self._held(copy.value.inputs[0]))
            for copy, launch in zip(schedule.graph.copies, emitted.copies, strict=True)
        ]
        self._assigned = [self._held(a.state) for a in schedule.graph.assignments]

    def _needed(self, shared: Mapping[str, Any]) -> int:
        """Bytes that this program allocates."""
        own = [
            b for b in self.schedule.buffers
            if b.storage != "arena" and not isinstance(shared.get(b.name), DeviceArray)
        ]  # fmt: skip
        return sum(b.bytes for b in own) + self.arena_bytes + self.workspace_bytes

    def _array(self, buffer: Buffer, shared: Mapping[str, Any], seed: int) -> DeviceArray | None:
        """The array of a buffer; None for those in the arena."""
        if buffer.storage == "arena":
            return None
        given = shared.get(buffer.name) if buffer.storage == "persistent" else None
        if isinstance(given, DeviceArray):
            return _checked_array(buffer.node, given, self.driver)
        if any(copy.state is buffer.node for copy in self.schedule.graph.copies):
            return DeviceArray(self.driver, (buffer.layout.size,), buffer.dtype.numpy)
        array = DeviceArray(self.driver, buffer.shape, buffer.dtype.numpy)
        if buffer.storage == "constant":
            array.write(np.asarray(buffer.node.value).reshape(buffer.shape))
        elif given is not None:
            array.write(checked_shared(buffer.node, given))
        elif buffer.storage == "persistent":
            array.write(initial_value(buffer.node, seed))
        return array

    def _held(self, node: Node) -> DeviceArray:
        """The array of a parameter or state."""
        array = self._arrays[self.schedule.places[node]]
        assert array is not None
        return array

    def _memory(self, number: int, buffer: Buffer) -> DeviceMemory:
        array = self._arrays[number]
        if array is not None:
            return array.memory
        return self._arena.memory.part(buffer.offset, buffer.bytes)

    def _run(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        for number, buffer in self._feeds:
            self._memories[number] = self._fed(number, buffer, feeds)
        if seconds is None:
            self.replay()
        else:
            self._profile(seconds)
        return self._finished()

    def stream(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[list[np.ndarray]]:
        """Run once for each batch; see ``Program.stream``."""
        source = iter(batches)
        slots = itertools.cycle([Slot(self.driver), Slot(self.driver)])
        try:
            with self._alone():
                ahead = self._staged(next(slots), source)
            while ahead is not None:
                if isinstance(ahead, Exception):
                    raise ahead
                with self._alone():
                    self.driver.await_copies()
                    for number, memory in ahead.items():
                        self._memories[number] = memory
                    self.replay()
                    ahead = self._staged(next(slots), source)
                    results = self._finished()
                yield results
        finally:
            for number, buffer in self._feeds:
                self._memories[number] = self._held(buffer.node).memory

    def _staged(
        self, slot: Slot, source: Iterator[Mapping[str, Any]]
    ) -> dict[int, DeviceMemory] | Exception | None:
        """Where the arrays of the next batch will be, None after the last.

        An error is returned, so that the batch before still gets its results.
        """
        try:
            feeds = next(source, None)
            if feeds is None:
                return None
            check_known(feeds, self.inputs)
            return {
                number: self._foreign(buffer.node, feeds, slot.owners)
                or slot.begin(number, self._feed(buffer.node, feeds))
                for number, buffer in self._feeds
            }
        except Exception as error:
            return error

    def _fed(self, number: int, buffer: Buffer, feeds: Mapping[str, Any]) -> DeviceMemory:
        """Where an input's array is now."""
        foreign = self._foreign(buffer.node, feeds, self._owners)
        if foreign is not None:
            return foreign
        array = self._held(buffer.node)
        array.write(self._feed(buffer.node, feeds))
        return array.memory

    def _foreign(
        self, node: Node, feeds: Mapping[str, Any], owners: dict[Node, object]
    ) -> DeviceMemory | None:
        """Where a fed array that is on the device already can be read; None if it is elsewhere.

        ``owners`` keeps its memory while it is read.
        """
        found = foreign_array(feeds[node.label])
        if found is None:
            return None
        self.driver.await_others()
        limit = self._limits.get(node)
        check_foreign(node, found)
        if limit is not None:
            labels = np.empty(found.shape, found.dtype)
            self.driver.copy_from(found.memory, labels)
            checked_feed(node, {node.label: labels}, limit)
        owners[node] = found.owner
        if found.memory.address % VECTOR_BYTES == 0:
            return found.memory
        array = self._held(node)
        self.driver.copy(array.memory, found.memory)
        return array.memory

    def _finished(self) -> list[np.ndarray]:
        results = [self._result(node) for node in self.schedule.graph.outputs]
        self._copy_assigned()
        return results

    def _make_copies(self) -> None:
        """Copies of parameters that somebody else has written, such as another program."""
        for copy in self._copies:
            if copy.version != copy.source.version:
                self._launch(copy.launch)
                copy.version = copy.source.version

    def _note_assigned(self) -> None:
        """What this run assigns is written; our own copies were made with it."""
        for array in self._assigned:
            array.version += 1
        for copy in self._copies:
            copy.version = copy.source.version

    def _profile(self, seconds: np.ndarray) -> None:
        """Launch by launch; a routine's time is that of all its launches."""
        self._make_copies()
        numbers = {routine.name: n for n, routine in enumerate(self.routines)}
        seconds[:] = 0.0
        for launch in self._launches:
            spent = self.driver.seconds(partial(self._launch, launch))
            seconds[numbers[launch.routine]] += spent
        self._note_assigned()

    @property
    def memory(self) -> Memory:
        """Bytes of device memory by purpose, all of which a program holds from its start."""
        return planned_memory(self.schedule.buffers, self.arena_bytes, self.workspace_bytes)

    def replay(self) -> None:
        """Launch all kernels on what was fed last, as one graph that is made at the first call.

        For measurements: nothing is copied, and nobody waits.
        """
        self._make_copies()
        self.driver.replay(self._captured())
        self._note_assigned()

    def _captured(self) -> Graph:
        """The launches on the arrays that are fed now; a graph holds their addresses."""
        key = tuple(self._memories[number].address for number, _ in self._feeds)
        if key not in self._graphs:
            if len(self._graphs) == _MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))[1]()
            self.driver.begin_capture()
            for launch in self._launches:
                self._launch(launch)
            graph = self.driver.end_capture()
            release = weakref.finalize(self, self.driver.release, graph)
            release.atexit = False
            self._graphs[key] = graph, release
        return self._graphs[key][0]

    def run_kernel(self, name: str, arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Run one kernel on arrays of one's own; what the buffers that it writes hold then.

        For checks: arrays and results are in the order of memory, by the number of their buffer in
        the schedule. Parameters and states that the kernel touches are overwritten.
        """
        for number, array in arrays.items():
            self.driver.copy_to(self._memories[number], array)
        for copy in self._copies:
            copy.version = -1
        for launch in self._launches:
            if launch.routine == name:
                self._launch(launch)
        plan = next(plan for plan in self.schedule.kernels if plan.name == name)
        results = {}
        for number in {self.schedule.places[node] for node in plan.stored}:
            buffer = self.schedule.buffers[number]
            results[number] = np.empty(buffer.layout.size, buffer.dtype.numpy)
            self.driver.copy_from(self._memories[number], results[number])
        return results

    def _launch(self, launch: Launch) -> None:
        arguments: list[Argument] = [self._tensor_map(argument) for argument in launch.boxes]
        arguments += [self._memories[number] for number in launch.buffers]
        if launch.workspace:
            arguments.append(self._workspace.memory.part(0, launch.workspace))
        kernel = self._module.kernels[launch.kernel]
        self.driver.launch(kernel, launch.grid, launch.block, launch.shared_bytes, arguments)

    def _tensor_map(self, argument: BoxArgument) -> TensorMap:
        """What a copy engine has to know of an array, made once for each of its addresses."""
        whole = self._memories[argument.buffer]
        key = argument, whole.address
        if key not in self._maps:
            memory = whole.part(argument.offset, whole.bytes - argument.offset)
            box = TensorBox(
                memory, argument.element_bytes, argument.shape, argument.strides, argument.box,
                LINE_BYTES,
            )  # fmt: skip
            self._maps[key] = self.driver.encode(box)
        return self._maps[key]

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
