"""Every kernel of a step on fresh random inputs at its real size, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.points import KernelValues, cost, places
from graphc.backends.cuda.run import DeviceProgram
from graphc.ir.graph import Node
from graphc.ir.schedule import Buffer, KernelPlan
from graphc.ir.types import element_count
from graphc.lower.routines import buffer_order

_TERMS = 20_000_000  # of one result, over all elements that are looked at
_ELEMENTS = (8, 512)  # at least and at most
_PERIOD = 1_000_003  # random numbers repeat after so many, a prime number
# Relative distance of a result: two roundings of its type, or of the factors of a tf32 product.
TOLERANCE = {"bfloat16": 8e-3, "float16": 2e-3, "float32": 5e-5, "float64": 1e-10}
TF32_TOLERANCE = 3e-3
_OTHER_CHOICES = 0.01  # of places of a maximum whose candidates differ by a rounding


def check_kernels(
    program: DeviceProgram, precision: str, seed: int, done: Callable[[dict[str, Any]], None]
) -> None:
    """Check all kernels, and hand over the record of each as soon as it is there."""
    for number, plan in enumerate(program.schedule.kernels):
        generator = np.random.default_rng((seed, number))
        done(check_kernel(program, plan, precision, generator))


def check_kernel(
    program: DeviceProgram, plan: KernelPlan, precision: str, generator: np.random.Generator
) -> dict[str, Any]:
    """Largest error of a kernel's results, how many elements were looked at, and what is wrong.

    Where random numbers give what is not finite, as logarithms do, positive ones are taken.
    """
    record = _record(program, plan, precision, generator, positive=False)
    if not np.isfinite(record["error"]):
        record = _record(program, plan, precision, generator, positive=True)
    return record


def _record(
    program: DeviceProgram, plan: KernelPlan, precision: str, generator: np.random.Generator,
    *, positive: bool,
) -> dict[str, Any]:  # fmt: skip
    schedule = program.schedule
    arrays = {}
    for number in buffer_order(plan, schedule):
        buffer = schedule.buffers[number]
        if buffer.storage == "constant":
            arrays[number] = np.ascontiguousarray(buffer.node.value).reshape(-1)
        else:
            arrays[number] = _filled(buffer, program, plan, generator)
        if positive and buffer.dtype.is_float:
            arrays[number] = np.abs(arrays[number])
    before = {number: array.copy() for number, array in arrays.items()}
    results = program.run_kernel(plan.name, arrays)
    values = KernelValues(schedule, plan, before)
    found = [
        _compared(values, node, results[schedule.places[node]], precision, generator)
        for node in plan.stored
    ]
    errors, elements, wrong = zip(*found, strict=True)
    return {
        "name": plan.name, "error": float(np.max(errors)), "elements": sum(elements),
        "wrong": [line for lines in wrong for line in lines],
    }  # fmt: skip


def _filled(
    buffer: Buffer, program: DeviceProgram, plan: KernelPlan, generator: np.random.Generator
) -> np.ndarray:
    """Random numbers for what is read, a pattern that no result has for what is only written.

    The zeros of a layout are there, except in what the kernel has to write.
    """
    size, kind = buffer.layout.size, buffer.dtype.numpy
    read = {o for node in plan.nodes for o in node.inputs if o not in plan.nodes}
    here = [node for node in read if program.schedule.places.get(node) is not None]
    if all(program.schedule.buffers[program.schedule.places[n]] is not buffer for n in here):
        pattern = np.full(size * kind.itemsize, 0xFF, np.uint8).view(kind)
        return _with_zeros(buffer, pattern) if buffer.storage == "persistent" else pattern
    count = min(size, _PERIOD)
    if buffer.dtype.is_float:
        numbers = generator.standard_normal(count, np.float32).astype(kind)
    else:
        limit = program.label_limit(buffer.node) or _places(buffer.node) or 2
        numbers = generator.integers(0, limit, count).astype(kind)
    return _with_zeros(buffer, np.resize(numbers, size))


def _with_zeros(buffer: Buffer, array: np.ndarray) -> np.ndarray:
    """The array with zeros where its layout has places that are no elements."""
    if buffer.layout.padding is not None:
        dimension, places = buffer.layout.padding
        array.reshape(-1, places)[:, buffer.shape[dimension] :] = 0
    return array


def _places(node: Node) -> int:
    """Places of a window, where a node says which of them has its extreme; else 0."""
    equation = node.equation
    if equation is None or not equation.reduction.startswith("arg"):
        return 0
    return element_count(tuple(axis.extent for axis in equation.reduce_axes))


def _compared(
    values: KernelValues, node: Node, got: np.ndarray, precision: str,
    generator: np.random.Generator,
) -> tuple[float, int, list[str]]:  # fmt: skip
    """Error, elements looked at, and what is wrong in words."""
    size = element_count(node.shape)
    least, most = _ELEMENTS
    count = min(size, max(least, min(most, _TERMS // cost(values.plan, node))))
    picked = generator.choice(size, count, replace=False) if size < 1 << 20 else None
    flat = generator.integers(0, size, count) if picked is None else picked
    flat = np.unique(np.concatenate([flat, [0, size - 1]]))
    positions = np.unravel_index(flat, node.shape) if node.shape else ()
    want = values.at(node, positions)
    found = got[places(values.schedule, node, positions)]
    wrong = [f"{node.label}: {n} elements were not written" for n in [_unwritten(got)] if n]
    if not node.dtype.is_float:
        share = float(np.mean(found != want))
        if share > _OTHER_CHOICES:
            wrong.append(f"{node.label}: {share:.1%} of its whole numbers differ")
        return share, flat.size, wrong
    ours, theirs = found.astype(np.float64), np.asarray(want, np.float64)
    error = float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))
    limit = TOLERANCE[node.dtype.value]
    if precision == "tf32" and values.plan.strategy == "contraction":
        limit = TF32_TOLERANCE
    if not error <= limit:
        wrong.append(f"{node.label}: relative error {error:.2e}, expected {limit:.0e}")
    return error, flat.size, wrong


def _unwritten(array: np.ndarray) -> int:
    """How many elements still hold the pattern; of long integers it may be a result."""
    if array.dtype.kind in "iub" and array.dtype.itemsize > 1:
        return 0
    bits = array.view(f"u{array.dtype.itemsize}")
    return int(np.count_nonzero(bits == np.iinfo(bits.dtype).max))
