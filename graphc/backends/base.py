"""What every backend's program shares: feeds checked against inputs, arrays initialised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.dsl.init import he_normal
from graphc.errors import UserError, user_error
from graphc.ir.graph import Node


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
    return np.ascontiguousarray(init(node.shape, generator), node.dtype.numpy)


def checked_feed(node: Node, feeds: Mapping[str, Any], limit: int | None) -> np.ndarray:
    """The array fed for an input: right shape and type, contiguous, labels in range."""
    if node.label not in feeds:
        raise UserError(
            f"missing input '{node.label}': {node!r}, declared at {node.location}; "
            f"pass {node.label}=array"
        )
    array = np.asarray(feeds[node.label])
    if array.shape != node.shape:
        raise UserError(
            f"input '{node.label}' has shape {list(array.shape)}, expected {list(node.shape)} "
            f"as declared at {node.location}"
        )
    if array.dtype != node.dtype.numpy:
        raise UserError(
            f"input '{node.label}' has type {array.dtype}, expected {node.dtype.value} as declared "
            f"at {node.location}; convert it: array.astype('{node.dtype.value}')"
        )
    if limit is not None and array.size and (array.min() < 0 or array.max() >= limit):
        wrong = array[(array < 0) | (array >= limit)].reshape(-1)[0]
        raise UserError(
            f"input '{node.label}' holds the label {wrong}; labels must be 0 to {limit - 1} "
            f"(declared at {node.location})"
        )
    return np.ascontiguousarray(array)


def check_known(feeds: Mapping[str, Any], inputs: tuple[Node, ...]) -> None:
    """No feed without an input."""
    unknown = sorted(set(feeds) - {node.label for node in inputs})
    if unknown:
        names = ", ".join(node.label for node in inputs) or "none"
        raise UserError(f"there is no input '{unknown[0]}'; the inputs are: {names}")


def thread_count(threads: int | None) -> int:
    """Threads to use: the argument, else OMP_NUM_THREADS, else the cores this process may use."""
    if threads is not None:
        if threads < 1:
            raise user_error(f"threads must be at least 1, here {threads}")
        return threads
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text:
        if not text.isdigit() or int(text) < 1:
            raise user_error(f"OMP_NUM_THREADS must be a positive number, here '{text}'")
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
