"""Arrays of other libraries that lie on the device already: they are read where they are.

Two protocols say where: ``__cuda_array_interface__`` (numba's, version 3) and DLPack.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.driver import DeviceMemory
from graphc.ir.types import DType, Shape

_CUDA, _MANAGED = 2, 13  # DLDeviceType
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode
_BFLOAT = 4


@dataclass(frozen=True)
class ForeignArray:
    """An array on the device; ``owner`` keeps its memory."""

    memory: DeviceMemory
    shape: Shape
    dtype: np.dtype[Any]
    contiguous: bool
    owner: object


def foreign_array(value: object) -> ForeignArray | None:
    """What a value says of its memory on the device; None if it does not lie there."""
    if isinstance(value, DeviceArray):
        return ForeignArray(value.memory, value.shape, value.dtype, True, value)
    interface = getattr(value, "__cuda_array_interface__", None)
    if isinstance(interface, dict):
        return _from_interface(interface, value)
    place = getattr(value, "__dlpack_device__", None)
    if place is not None and int(place()[0]) in (_CUDA, _MANAGED):
        return _from_capsule(value.__dlpack__())  # type: ignore[attr-defined]
    return None


def _from_interface(interface: dict[str, Any], owner: object) -> ForeignArray:
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    apart = tuple(s // dtype.itemsize for s in strides) if strides is not None else None
    return _array(int(interface["data"][0]), shape, dtype, apart, owner)


def _array(
    address: int, shape: Shape, dtype: np.dtype[Any], strides: Shape | None, owner: object
) -> ForeignArray:
    memory = DeviceMemory(address, math.prod(shape) * dtype.itemsize)
    return ForeignArray(memory, shape, dtype, _runs_on(shape, strides), owner)


def _runs_on(shape: Shape, strides: Shape | None) -> bool:
    """Whether elements lie one after the other, in row-major order."""
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class DLTensor(ctypes.Structure):
    """The tensor that a capsule named "dltensor" leads to (dlpack.h, version 0.8)."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _Device), ("rank", ctypes.c_int32),
        ("dtype", _Type), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    )  # fmt: skip


def _from_capsule(capsule: object) -> ForeignArray:
    """The capsule is not consumed: it gives its memory back when it is dropped."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = DLTensor.from_address(pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[n] for n in range(tensor.rank))
    strides = tuple(tensor.strides[n] for n in range(tensor.rank)) if tensor.strides else None
    code, size = tensor.dtype.code, tensor.dtype.bits // 8
    kind = DType.bfloat16.numpy if code == _BFLOAT else np.dtype(f"{_KINDS[code]}{size}")
    return _array(int(tensor.data) + tensor.offset, shape, kind, strides, capsule)
