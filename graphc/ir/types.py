"""Element types, shapes and named axes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np

Shape = tuple[int, ...]


class DType(Enum):
    """Element types; the value is NumPy's name.

    Values of the 16-bit types are computed in float32 and rounded to nearest, ties to even.
    """

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int32 = "int32"
    int64 = "int64"
    uint8 = "uint8"
    boolean = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type of the same elements."""
        kind: np.dtype[np.generic]
        kind = np.dtype(ml_dtypes.bfloat16 if self is DType.bfloat16 else self.value)
        return kind

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether gradients can flow through values of this type."""
        return self in (DType.float32, DType.float64) or self.is_half

    @property
    def is_half(self) -> bool:
        """Whether elements are floating numbers of 16 bits, which no arithmetic is done in."""
        return self in (DType.bfloat16, DType.float16)

    @property
    def arithmetic(self) -> DType:
        """The type that values are computed in: float32 for the 16-bit types, else their own."""
        return DType.float32 if self.is_half else self


def holds_floats(dtype: np.dtype[np.generic]) -> bool:
    """Whether a NumPy type holds floating numbers; NumPy itself does not count bfloat16."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def holds_numbers(dtype: np.dtype[np.generic]) -> bool:
    """Whether a NumPy type holds real numbers or bools."""
    return dtype.kind in "iub" or holds_floats(dtype)


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
