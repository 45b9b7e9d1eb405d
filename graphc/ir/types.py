"""Element types, shapes and named axes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

Shape = tuple[int, ...]


class DType(Enum):
    """Element types; the value is NumPy's name."""

    float32 = "float32"
    float64 = "float64"
    int32 = "int32"
    int64 = "int64"
    uint8 = "uint8"
    boolean = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type of the same elements."""
        return np.dtype(self.value)

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether gradients can flow through values of this type."""
        return self in (DType.float32, DType.float64)


def element_count(shape: Shape) -> int:
    """Number of elements; 1 for a scalar."""
    count = 1
    for extent in shape:
        count *= extent
    return count


@dataclass(frozen=True)
class Axis:
    """One dimension of an iteration space: positions 0 <= name < extent."""

    name: str
    extent: int
