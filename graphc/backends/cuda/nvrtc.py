"""NVIDIA's run-time compiler from its wheel: CUDA text to machine code without a toolkit."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

from graphc.errors import ToolchainError

INSTALL_HINT = "pip install nvidia-cuda-nvrtc"


class Nvrtc:
    """One loaded library; it may compile several texts at once from several threads."""

    def __init__(self, path: Path):
        # Its second library is looked up by name, which finds nothing inside a wheel.
        for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "")
        self.version = (int(major.value), int(minor.value))

    def compile(
        self, text: str, name: str, options: tuple[str, ...], headers: tuple[tuple[str, str], ...]
    ) -> tuple[bytes, str]:
        """Machine code of a text whose headers are given as (name, text), and what was said.

        Raises:
            ToolchainError: the text was refused; the message holds the compiler's.
        """
        library, program = self._library, ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*(t.encode() for _, t in headers))
        names = (ctypes.c_char_p * len(headers))(*(n.encode() for n, _ in headers))
        self._check(
            library.nvrtcCreateProgram(
                ctypes.byref(program), text.encode(), name.encode(), len(headers), texts, names
            ),
            name,
        )
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = library.nvrtcCompileProgram(program, len(options), flags)
            log = self._text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0")
            said = log.decode(errors="replace").strip()
            self._check(failed, f"{name}: NVRTC refused the text\n{said}")
            return self._text(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"), said
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, size_of: str, get: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, size_of)(program, ctypes.byref(size)), size_of)
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, get)(program, buffer), get)
        return buffer.raw

    def _check(self, failed: int, what: str) -> None:
        if failed:
            reason = self._library.nvrtcGetErrorString(failed).decode()
            raise ToolchainError(f"{what}\n  NVRTC: {reason}" if what else f"NVRTC: {reason}")


@cache
def find_nvrtc() -> Nvrtc | None:
    """NVRTC of a wheel on Python's path, None where it is not installed."""
    for folder in map(Path, sys.path):
        for path in sorted(folder.glob("nvidia/*/lib/libnvrtc.so.*")):
            return Nvrtc(path)
    return None
