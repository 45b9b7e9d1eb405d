"""What every backend's program shares: calls, feeds checked against inputs, first values."""

from __future__ import annotations

import difflib
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphc.dsl.init import he_normal
from graphc.errors import UserError, user_error
from graphc.evaluate import fed_array
from graphc.ir.graph import Node
from graphc.ir.routine import Routine
from graphc.ir.schedule import Schedule
from graphc.ir.types import holds_numbers
from graphc.ops.messages import brief, describe


@dataclass(frozen=True)
class KernelInfo:
    """One generated kernel, for people."""

    name: str
    formulas: tuple[str, ...]
    source: str
    location: str
    flops: int
    bytes: int
    strategy: str

    @property
    def formula(self) -> str:
        """The formulas, one a line."""
        return "\n".join(self.formulas)


class Program(ABC):
    """A compiled graph: call it with arrays by input name, get the outputs as new arrays.

    Attributes:
        parameters, states: name -> array, updated in place by each call that assigns them. They
            are NumPy arrays, or arrays on the device that convert to NumPy's.
        kernels: name -> KernelInfo in execution order.
        folder: where the generated sources can be read.
        compiled, compile_seconds: whether sources were compiled, and how long that took.
        arena_bytes, workspace_bytes: exact memory for intermediate values and packing.
        language: what the sources are written in.
        machine: what runs the kernels, for people: "2 threads", or the name of a device.
    """

    parameters: dict[str, Any]
    states: dict[str, Any]
    folder: Path
    compiled: bool
    compile_seconds: float
    arena_bytes: int
    workspace_bytes: int
    language: str
    machine: str

    def __init__(
        self, schedule: Schedule, routines: Sequence[Routine], texts: Mapping[str, str],
        limits: Mapping[Node, int],
    ) -> None:  # fmt: skip
        self.schedule = schedule
        self.routines = tuple(routines)
        self.kernels = _kernel_infos(schedule, routines, texts)
        self.arena_bytes = schedule.arena_bytes
        self.inputs = tuple(b.node for b in schedule.buffers if b.storage == "feed")
        self._limits = limits
        self._lock, self._forked = threading.Lock(), os.getpid()

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

    def stream(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[list[np.ndarray]]:
        """Run once for each batch of feeds, in order; yields what each call would return.

        On a device the arrays of a batch are copied there while the batch before is computed. The
        next batch is asked for before the results of the last are yielded.

        Raises:
            UserError: as a call does, when the batch's turn has come.
        """
        for feeds in batches:
            yield self._call(feeds, None)

    def _call(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        check_known(feeds, self.inputs)
        with self._alone():
            return self._run(feeds, seconds)

    def _alone(self) -> threading.Lock:
        """What one caller at a time holds."""
        if os.getpid() != self._forked:  # the lock may have been held at the fork
            self._lock, self._forked = threading.Lock(), os.getpid()
        return self._lock

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any], seconds: np.ndarray | None) -> list[np.ndarray]:
        """Outputs of one run, one caller at a time; fills ``seconds`` of each kernel if given."""

    def label_limit(self, node: Node) -> int | None:
        """Below what the numbers fed for an input of labels must be; None for other nodes."""
        return self._limits.get(node)

    def _feed(self, node: Node, feeds: Mapping[str, Any]) -> np.ndarray:
        """The checked array of an input."""
        return checked_feed(node, feeds, self._limits.get(node))


def _kernel_infos(
    schedule: Schedule, routines: Sequence[Routine], texts: Mapping[str, str]
) -> dict[str, KernelInfo]:
    return {
        r.name: KernelInfo(
            r.name, r.title, texts[r.name], str(plan.nodes[0].location), r.flops, r.bytes,
            f"{plan.strategy}: {plan.reason}",
        )
        for r, plan in zip(routines, schedule.kernels, strict=True)
    }  # fmt: skip


def aligned_bytes(size: int, alignment: int) -> np.ndarray:
    """A byte array whose first element lies on a multiple of ``alignment``."""
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def initial_value(node: Node, seed: int) -> np.ndarray:
    """A parameter's or state's first value: from its own stream, whatever else the graph holds."""
    if node.value is not None:
        return np.array(node.value, node.dtype.numpy).reshape(node.shape)
    digest = hashlib.sha256(node.label.encode()).digest()
    stream = int.from_bytes(digest[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=(seed % 2**64) | stream << 64))
    init = node.init or he_normal()
    value = np.asarray(init(node.shape, generator))
    fits = holds_numbers(value.dtype) and np.can_cast(value.dtype, node.dtype.numpy, "same_kind")
    if value.shape != node.shape or not fits:
        raise user_error(
            f"the initialiser of {node.kind} '{node.label}' returns what does not fit",
            *describe([node], ["declared"]),
            f"returned: {value.dtype}{list(value.shape)}",
            "init(shape, generator) must return numbers of that shape and kind",
        )
    return np.require(value, node.dtype.numpy, ["C", "W"]).reshape(node.shape)


def checked_shared(node: Node, array: Any) -> np.ndarray:
    """The array given for a parameter or state, to be used and updated in place."""
    fits = isinstance(array, np.ndarray) and (array.shape, array.dtype) == (
        node.shape, node.dtype.numpy,
    )  # fmt: skip
    if fits and array.flags.carray:
        return np.asarray(array)
    given = "not contiguous, aligned and writeable" if fits else brief(array)
    raise user_error(
        f"the array given for the {node.kind} '{node.label}' does not fit",
        *describe([node], ["declared"]),
        f"given:    {given}",
        "it is updated in place: give a contiguous, writeable NumPy array of that shape and type",
    )


def checked_feed(node: Node, feeds: Mapping[str, Any], limit: int | None) -> np.ndarray:
    """The array fed for an input: right shape and type, contiguous, labels in range."""
    array = fed_array(node, feeds[node.label])
    if array.shape != node.shape:
        raise _feed_error(
            node, "has another shape", array,
            "feed an array of the declared shape; for another batch declare another input",
        )  # fmt: skip
    if array.dtype != node.dtype.numpy:
        raise _feed_error(
            node, "has another element type", array,
            f"convert it: array.astype('{node.dtype.value}')",
        )  # fmt: skip
    if limit is not None and array.size and (array.min() < 0 or array.max() >= limit):
        place = tuple(int(n) for n in np.argwhere((array < 0) | (array >= limit))[0])
        raise user_error(
            f"the input '{node.label}' holds the label {array[place]}",
            *describe([node], ["declared"]),
            f"expected labels 0..{limit - 1}; the first other one is at {list(place)}",
        )
    return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])


def _feed_error(node: Node, what: str, array: np.ndarray, remedy: str) -> UserError:
    return user_error(
        f"the array fed for '{node.label}' {what}",
        *describe([node], ["declared"]),
        f"fed:      {array.dtype}{list(array.shape)}",
        remedy,
    )


def check_known(feeds: Mapping[str, Any], inputs: tuple[Node, ...]) -> None:
    """No feed without an input, no input without a feed."""
    names = [node.label for node in inputs]
    for name in sorted(set(feeds) - set(names)):
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise user_error(
            f"there is no input '{name}'{hint}",
            *describe(inputs, ["input"]),
            "feed these and nothing else" if inputs else "this program has no inputs",
        )
    missing = [node for node in inputs if node.label not in feeds]
    if missing:
        arguments = ", ".join(f"{node.label}=array" for node in missing)
        raise user_error(
            f"{'inputs are' if len(missing) > 1 else 'an input is'} missing",
            *describe(missing, ["declared"]),
            f"pass {arguments}",
        )


def thread_count(threads: int | None) -> int:
    """Threads to use: the argument, else OMP_NUM_THREADS, else the cores this process may use."""
    if threads is not None:
        if not isinstance(threads, int) or threads < 1:
            raise user_error(f"threads is {brief(threads)}", "expected an integer of at least 1")
        return threads
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if text:
        if not (text.isascii() and text.isdigit()) or int(text) < 1:
            raise user_error(
                "the environment variable OMP_NUM_THREADS has an illegal value",
                f"value: {text!r}",
                "legal: a whole number of at least 1; unset it to use every core",
            )
        return int(text)
    return available_cores()


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
