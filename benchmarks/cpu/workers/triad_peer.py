"""The ceiling of memory-bound work: a stream triad in plain C, compiled when first needed."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.cases import Case
from benchmarks.cpu.workers.prepared import Prepared, Settings

ELEMENTS = 1 << 26  # three arrays of 256 MiB: beyond every cache
BYTES = 3 * 4 * ELEMENTS


def prepare(case: Case, settings: Settings) -> Prepared:
    """A triad of ELEMENTS floats, whatever the case."""
    library = _library("haswell" if settings.isa == "avx2" else "native")
    run = library.triad_streaming if settings.peer["streaming"] else library.triad
    run.restype = None
    arrays = [_aligned(ELEMENTS, value) for value in (0.0, 1.0, 2.0)]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    numbers = ctypes.c_float(3.0), ctypes.c_size_t(ELEMENTS), ctypes.c_int(settings.threads)

    def step() -> Any:
        run(*pointers, *numbers)
        return arrays[0]

    return Prepared(lambda data: None, step, lambda result: [result[:1]], lambda: {"bytes": BYTES})


def _library(march: str) -> ctypes.CDLL:
    source = Path(__file__).with_name("triad.c")
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    flags = ["-O3", f"-march={march}", "-fopenmp", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "triad.so")
        subprocess.run([*compiler, *flags, str(source), "-o", target], check=True)
        return ctypes.CDLL(target)


def _aligned(elements: int, value: float) -> np.ndarray:
    raw = np.empty(elements + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    array = raw[start : start + elements]
    array[:] = value
    return array
