"""What the CUDA backend calls things: types, functions, literals."""

from __future__ import annotations

import math

import numpy as np

from graphc.backends.c import mapping as c
from graphc.ir.types import DType

TYPES = {
    DType.float32: "float", DType.float64: "double", DType.int32: "int",
    DType.int64: "gc_int64", DType.uint8: "gc_uint8", DType.boolean: "bool",
    DType.bfloat16: "gc_bf16", DType.float16: "gc_half",
}  # fmt: skip
WIDEN = {DType.bfloat16: "gc_to_float", DType.float16: "gc_to_float"}
NARROW = {DType.bfloat16: "gc_to_bf16", DType.float16: "gc_to_half"}
BINARY = c.BINARY
FUNCTIONS = c.FUNCTIONS
INDEX, WIDE_INDEX = "int", "gc_int64"


def literal(value: float | int | bool, dtype: DType) -> str:
    """A CUDA literal of exactly this value and type; without a header there is no INFINITY."""
    if dtype == DType.boolean:
        return "true" if value else "false"
    if not dtype.is_float:
        return c.literal(value, dtype)
    with np.errstate(over="ignore"):
        exact = dtype.numpy.type(value).item()
    if math.isfinite(exact):
        return c.literal(exact, dtype)
    name = "GC_NAN" if math.isnan(exact) else "GC_INFINITY"
    text = name if dtype == DType.float32 else f"(double){name}"
    return f"(-{text})" if exact < 0 else text
