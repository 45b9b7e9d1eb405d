"""Philox4x32-10 (Salmon et al. 2011) with NumPy: the oracle of every backend's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> np.ndarray:
    """First word of the block cipher for 32-bit counter words and a 64-bit key."""
    words = [np.asarray(w).astype(np.uint64) & _LOW for w in counter]
    c0, c1, c2, c3 = np.broadcast_arrays(*words)
    k0, k1 = key
    for number in range(_ROUNDS):
        low_key, high_key = (
            np.uint64((k0 + number * _W0) % 2**32),
            np.uint64((k1 + number * _W1) % 2**32),
        )
        p0, p1 = _M0 * c0, _M1 * c2
        shift = np.uint64(32)
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ low_key,
            p1 & _LOW,
            (p0 >> shift) ^ c3 ^ high_key,
            p0 & _LOW,
        )
    return c0


def uniform_numbers(seed: Any, step: Any, stream: Any, counter: Any) -> np.ndarray:
    """Uniform numbers in [0, 1) with 24 bits, exact in float32 and float64."""
    key = int(np.asarray(seed).reshape(-1)[0]) % 2**64
    position = np.asarray(counter).astype(np.int64)
    low = position & 0xFFFFFFFF
    high = position >> 32
    word = philox((low, high, np.asarray(step), np.asarray(stream)), (key % 2**32, key >> 32))
    return (word >> np.uint64(8)).astype(np.float64) * 2.0**-24
