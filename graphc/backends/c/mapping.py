"""What the C backend calls things: types, functions, literals, register blocks."""

from __future__ import annotations

import math

import numpy as np

from graphc.ir.loops import BlockSizes
from graphc.ir.types import DType

TYPES = {
    DType.float32: "float", DType.float64: "double", DType.int32: "int32_t",
    DType.int64: "int64_t", DType.uint8: "uint8_t", DType.boolean: "_Bool",
    DType.bfloat16: "uint16_t", DType.float16: "uint16_t",
}  # fmt: skip

# The 16-bit types, stored as the bits of integers: a float from them, a vector of floats, and back.
WIDEN = {DType.bfloat16: "gc_from_bf16", DType.float16: "gc_from_f16"}
WIDEN_VECTOR = {DType.bfloat16: "load_bf16", DType.float16: "load_f16"}
NARROW = {DType.bfloat16: "gc_to_bf16", DType.float16: "gc_to_f16"}

BINARY = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
    "and": "&&", "or": "||",
}  # fmt: skip

# IR function -> C function for double; float appends f.
FUNCTIONS = {
    "exp": "exp", "log": "log", "tanh": "tanh", "erf": "erf", "abs": "fabs", "sin": "sin",
    "cos": "cos", "expm1": "expm1", "floor": "floor", "ceil": "ceil", "sqrt": "sqrt", "pow": "pow",
    "sigmoid": "gc_sigmoid", "softplus": "gc_softplus", "sign": "gc_sign",
}  # fmt: skip

# Register blocks by SIMD level: accumulators = rows x vectors, chosen to fill the register file.
BLOCKS = {
    "avx512_bf16": BlockSizes(rows=8, vectors=2, vector_bytes=64, registers=32, pairs=True),
    "avx512": BlockSizes(rows=8, vectors=2, vector_bytes=64, registers=32),
    "avx2": BlockSizes(rows=4, vectors=3, vector_bytes=32),
    "neon": BlockSizes(rows=8, vectors=2, vector_bytes=16, registers=32),
    "scalar": BlockSizes(rows=4, vectors=2, vector_bytes=16),
}


def literal(value: float | int | bool, dtype: DType) -> str:
    """A C literal of exactly this value and type; a 16-bit number's is that of its bits."""
    if dtype == DType.boolean:
        return "1" if value else "0"
    if not dtype.is_float:
        whole = int(value)
        text = f"{whole + 1} - 1" if whole == -(2**63) else str(whole)
        return f"({text})" if whole < 0 else text
    suffix = "f" if dtype == DType.float32 else ""
    with np.errstate(over="ignore"):
        rounded = np.asarray(value, dtype.numpy)
    if dtype.is_half:
        return f"0x{int(rounded.view(np.uint16)):04X}"
    value = rounded.item()
    if math.isnan(value):
        return "NAN" if suffix else "(double)NAN"
    if math.isinf(value):
        name = "INFINITY" if suffix else "(double)INFINITY"
        return name if value > 0 else f"(-{name})"
    text = str(np.float32(value)) if suffix else repr(float(value))
    if "e" not in text and "." not in text:
        text += ".0"
    return f"({text}{suffix})" if text.startswith("-") else f"{text}{suffix}"
