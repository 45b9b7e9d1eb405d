"""Arrays that live on a device, and look like NumPy's from outside."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from graphc.backends.cuda.driver import DeviceMemory, Driver
from graphc.ir.types import Shape


class DeviceArray:
    """A contiguous array in memory of its own, which is freed with it.

    ``version`` counts how often it was written, by ``write`` or by a program that assigns it.

    ``np.asarray(array)`` is a copy of what it holds now; ``array[...] = value`` overwrites it. Both
    wait for the kernels that were launched before.
    """

    def __init__(self, driver: Driver, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.driver = driver
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.version = 0
        self.memory: DeviceMemory = driver.allocate(self.nbytes)
        weakref.finalize(self, driver.free, self.memory).atexit = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    def write(self, array: np.ndarray) -> None:
        """Overwrite all elements by those of an array of this type."""
        self.driver.copy_to(self.memory, np.ascontiguousarray(array, self.dtype))
        self.version += 1

    def read(self) -> np.ndarray:
        """All elements, as a new array."""
        array = np.empty(self.shape, self.dtype)
        self.driver.copy_from(self.memory, array)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All elements, as a new array."""
        if copy is False:
            raise ValueError("the elements are on a device; a copy is the only way to see them")
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """Elements, copied from the device."""
        return self.read()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Overwrite elements; all of them at once where the key is ``...``."""
        if key is Ellipsis:
            self.write(np.broadcast_to(np.asarray(value, self.dtype), self.shape))
            return
        array = self.read()
        array[key] = value
        self.write(array)

    def __len__(self) -> int:
        """Extent of the first dimension."""
        return self.shape[0]

    def __float__(self) -> float:
        """The value of an array of one element."""
        return float(self.read())

    def __repr__(self) -> str:
        """Type, shape and device on one line."""
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self.driver.name})"
