"""First values of parameters: each function here makes an initialiser (shape, generator) -> array.

Fans: a dense weight (K, C) has fan_in C and fan_out K; a filter (K, C, *window) has both times the
window's size; a vector has its length for both. Random numbers are float32, in pieces that are
drawn side by side, each from its own part of the generator's stream: as many threads as there
are, the same numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from graphc.errors import user_error
from graphc.ir.graph import Initializer
from graphc.ir.types import Shape, element_count

Fan = Literal["in", "out"]
_RELU_GAIN = math.sqrt(2.0)
_PIECE = 1 << 20  # numbers that one stream gives


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
        return _normal(shape, generator, gain / math.sqrt(fans(shape)[pick]))

    return init


def he_uniform(gain: float = _RELU_GAIN, fan: Fan = "in") -> Initializer:
    """Uniform with the same deviation as ``he_normal``: the bound is gain * sqrt(3 / fan)."""
    pick = _fan(fan)

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        bound = gain * math.sqrt(3.0 / fans(shape)[pick])
        return _uniform(shape, generator, -bound, bound)

    return init


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return _normal(shape, generator, gain * math.sqrt(2.0 / sum(fans(shape))))

    return init


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with the bound gain * sqrt(6 / (fan_in + fan_out))."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        bound = gain * math.sqrt(6.0 / sum(fans(shape)))
        return _uniform(shape, generator, -bound, bound)

    return init


def normal(std: float = 0.01, mean: float = 0.0) -> Initializer:
    """Normal of a given deviation and mean."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return _normal(shape, generator, std, mean)

    return init


def uniform(low: float = -0.1, high: float = 0.1) -> Initializer:
    """Uniform from low to high."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return _uniform(shape, generator, low, high)

    return init


def constant(value: float) -> Initializer:
    """One value everywhere."""

    def init(shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(np.float64(value), shape)

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


def _normal(
    shape: Shape, generator: np.random.Generator, std: float, mean: float = 0.0
) -> np.ndarray:
    def fill(source: np.random.Generator, piece: np.ndarray) -> None:
        source.standard_normal(out=piece, dtype=np.float32)
        piece *= np.float32(std)
        piece += np.float32(mean)

    return _filled(shape, generator, fill)


def _uniform(shape: Shape, generator: np.random.Generator, low: float, high: float) -> np.ndarray:
    def fill(source: np.random.Generator, piece: np.ndarray) -> None:
        source.random(out=piece, dtype=np.float32)
        piece *= np.float32(high - low)
        piece += np.float32(low)

    return _filled(shape, generator, fill)


def _filled(
    shape: Shape, generator: np.random.Generator,
    fill: Callable[[np.random.Generator, np.ndarray], None],
) -> np.ndarray:  # fmt: skip
    """An array whose pieces are filled side by side, each from a stream of its own."""
    flat = np.empty(element_count(shape), np.float32)
    streams: Any = generator.bit_generator  # each kind has its own jumped()

    def one(number: int) -> None:
        source = np.random.Generator(streams.jumped(number))
        fill(source, flat[number * _PIECE : (number + 1) * _PIECE])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(-(-flat.size // _PIECE))))
    return flat.reshape(shape)
