"""First values of parameters: each function here makes an initialiser (shape, generator) -> array.

Fans: a dense weight (K, C) has fan_in C and fan_out K; a filter (K, C, *window) has both times the
window's size; a vector has its length for both. Arrays are float64, cast where they are stored.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from graphc.errors import user_error
from graphc.ir.graph import Initializer
from graphc.ir.types import Shape, element_count

Fan = Literal["in", "out"]
_RELU_GAIN = math.sqrt(2.0)


def fans(shape: Shape) -> tuple[int, int]:
    """fan_in and fan_out of a weight of that shape."""
    if len(shape) < 2:
        return (element_count(shape),) * 2
    window = element_count(shape[2:])
    return shape[1] * window, shape[0] * window


def he_normal(gain: float = _RELU_GAIN, fan: Fan = "in") -> Initializer:
    """Normal with deviation gain / sqrt(fan) (He et al. 2015); gain sqrt(2) suits relu."""
    pick = _fan(fan)

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.0, gain / math.sqrt(fans(shape)[pick]), shape)

    return init


def he_uniform(gain: float = _RELU_GAIN, fan: Fan = "in") -> Initializer:
    """Uniform with the same deviation as ``he_normal``: the bound is gain * sqrt(3 / fan)."""
    pick = _fan(fan)

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        bound = gain * math.sqrt(3.0 / fans(shape)[pick])
        return generator.uniform(-bound, bound, shape)

    return init


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.0, gain * math.sqrt(2.0 / sum(fans(shape))), shape)

    return init


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with the bound gain * sqrt(6 / (fan_in + fan_out))."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        bound = gain * math.sqrt(6.0 / sum(fans(shape)))
        return generator.uniform(-bound, bound, shape)

    return init


def normal(std: float = 0.01, mean: float = 0.0) -> Initializer:
    """Normal of a given deviation and mean."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(mean, std, shape)

    return init


def uniform(low: float = -0.1, high: float = 0.1) -> Initializer:
    """Uniform in low <= x < high."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(low, high, shape)

    return init


def constant(value: float) -> Initializer:
    """One value everywhere."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return np.full(shape, value, np.float64)

    return init


def zeros() -> Initializer:
    """0 everywhere."""
    return constant(0.0)


def ones() -> Initializer:
    """1 everywhere."""
    return constant(1.0)


def _fan(fan: str) -> int:
    if fan not in ("in", "out"):
        raise user_error(f"init: fan={fan!r}", "expected 'in' or 'out'")
    return ("in", "out").index(fan)
