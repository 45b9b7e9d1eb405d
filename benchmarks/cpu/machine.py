"""What the figures were measured on, and the environment that every worker is given."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("graphc-compiler", "numpy", "sympy", "torch", "jax", "jaxlib", "matplotlib")

# Freed memory stays with the process: no peer pays for fresh pages in every repetition.
REUSE_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch asks for huge pages, as NumPy does anyway
}
AVX2 = {
    "GRAPHC_MARCH": "haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v2", {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
)


def worker_environment(isa: str, threads: int, *, reuse_memory: bool = True) -> dict[str, str]:
    """Variables that a worker gets on top of ours."""
    chosen = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    if reuse_memory:
        chosen |= REUSE_MEMORY
    return chosen | (AVX2 if isa == "avx2" else {})


def processor_flags() -> set[str]:
    """The instruction sets that the processor names; empty where the system does not say."""
    return set(_cpuinfo("flags").split())


def available_bytes() -> int:
    """Memory that can still be used without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def describe(isa: str, threads: int) -> dict[str, Any]:
    """The machine, the compiler, the packages and the state of the sources."""
    flags = processor_flags()
    level = next((name for name, needed in LEVELS if needed <= flags), "x86-64")
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "flags_level": level,
        "avx512_bf16": "avx512_bf16" in flags,
        "isa": isa,
        "system": f"{platform.system()} {platform.release()}",
        "compiler": _first_line([os.environ.get("CC", "gcc").split()[0], "--version"]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _first_line(["git", "rev-parse", "HEAD"]),
        "changed_files": len(_output(["git", "status", "--porcelain"]).splitlines()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
        "environment": {
            name: value
            for name, value in worker_environment(isa, threads).items()
            if name != "PYTHONPATH"
        },
    }


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((li.split(":", 1)[1].strip() for li in lines if li.startswith(field)), "")


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches, such as {"L2 Unified": "1024K"}."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        found[f"L{level} {kind}"] = size
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _first_line(command: list[str]) -> str:
    return _output(command).partition("\n")[0]
