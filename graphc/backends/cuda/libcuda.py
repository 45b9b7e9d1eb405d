"""The few calls of NVIDIA's driver library that PyCUDA lacks: graphs of launches, tensor maps.

They work on PyCUDA's own context and stream, whose handles it shows.
"""

from __future__ import annotations

import ctypes

from graphc.backends.cuda.driver import TENSOR_MAP_BYTES, TensorBox
from graphc.errors import ToolchainError

_THREAD_LOCAL_CAPTURE = 1
_UNSIGNED = {1: 0, 2: 1, 4: 2, 8: 4}  # CU_TENSOR_MAP_DATA_TYPE_UINT8, 16, 32, 64
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTE_TO_128 = 2  # bytes that one miss brings into the second-level cache


def driver_version() -> tuple[int, int] | None:
    """The CUDA release that the installed driver takes, None where there is no driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


class LibCuda:
    """libcuda.so.1, loaded; every call that fails raises ToolchainError with NVIDIA's own words."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def begin_capture(self, stream: int) -> None:
        """Record what this thread launches on a stream."""
        self._call(
            "cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL_CAPTURE)
        )

    def end_capture(self, stream: int) -> int:
        """An executable graph of what was recorded."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self._call(
            "cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0)
        )
        self._call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch_graph(self, executable: int, stream: int) -> None:
        """Queue a graph."""
        self._call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))

    def destroy_graph(self, executable: int) -> None:
        """Forget a graph."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(executable))

    def tensor_map(self, box: TensorBox) -> bytes:
        """The map of a box; elements outside of the tensor are read as zeros.

        Elements are unsigned integers to the copy: it moves bits.
        """
        rank = len(box.shape)
        shape = (ctypes.c_uint64 * rank)(*reversed(box.shape))
        strides = (ctypes.c_uint64 * (rank - 1))(*reversed(box.strides[:-1]))
        extents = (ctypes.c_uint32 * rank)(*reversed(box.box))
        steps = (ctypes.c_uint32 * rank)(*([1] * rank))
        raw = ctypes.create_string_buffer(2 * TENSOR_MAP_BYTES)
        aligned = -(-ctypes.addressof(raw) // TENSOR_MAP_BYTES) * TENSOR_MAP_BYTES
        self._call(
            "cuTensorMapEncodeTiled", ctypes.c_void_p(aligned),
            ctypes.c_int(_UNSIGNED[box.element_bytes]), ctypes.c_uint32(rank),
            ctypes.c_void_p(box.memory.address), shape, strides, extents, steps,
            ctypes.c_int(0), ctypes.c_int(_SWIZZLES[box.swizzle]), ctypes.c_int(_PROMOTE_TO_128),
            ctypes.c_int(0),
        )  # fmt: skip
        return ctypes.string_at(aligned, TENSOR_MAP_BYTES)

    def _call(self, name: str, *arguments: object) -> None:
        failed = getattr(self._library, name)(*arguments)
        if failed:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(ctypes.c_int(failed), ctypes.byref(text))
            words = (text.value or b"unknown error").decode(errors="replace")
            raise ToolchainError(f"{name} failed: {words} (CUDA error {failed})")
