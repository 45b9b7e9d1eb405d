"""The device of a target, one for all programs of the process, so that they can share arrays."""

from __future__ import annotations

from functools import cache

from graphc.backends.cuda.driver import Driver
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.gpu import Gpu


@cache
def open_device(target: str) -> Driver:
    """The driver of the target "cuda" or "cuda-emu".

    Raises:
        ToolchainError: something that the target needs is not installed.
    """
    return Gpu() if target == "cuda" else Emulator()
