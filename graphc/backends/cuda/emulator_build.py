"""CUDA sources become libraries for this processor, so that tests run them without a GPU.

The emulator itself is compiled once and linked with every kernel. A kernel gets the calls that the
thread sanitizer puts at each load and store, which the emulator answers in place of its library.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphc.backends.base import available_cores
from graphc.backends.c.cache import (
    Recipe,
    build_root,
    discard_leftovers,
    is_intact,
    keep_failed,
    key_lock,
    net_name,
    publish,
    staging,
    storage,
)
from graphc.backends.c.toolchain import Toolchain, compile_timeout
from graphc.backends.cuda.driver import Progress
from graphc.backends.templating import template_folder
from graphc.errors import CompilerBug, ToolchainError
from graphc.ir.source import SourceFile

INSTALL_HINT = "Install it: apt-get install g++ (Debian, Ubuntu)."

_DEVICE_HEADERS = ("gc_device.cuh", "gc_emulator.hpp")
_EMULATOR = "gc_emulator.cpp"
_EMULATOR_PARTS = (
    "gc_emulator_threads.hpp",
    "gc_emulator_memory.hpp",
    "gc_emulator_copies.hpp",
    "gc_emulator_products.hpp",
)
_COMMON = (
    "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-ffp-contract=off",
    "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-psabi",
)  # fmt: skip
_EMULATOR_FLAGS = (*_COMMON, "-O2")
_KERNEL_FLAGS = (
    *_COMMON, "-O1", "-g1", "-gdwarf-4", "-fno-math-errno", "-fno-tree-loop-distribute-patterns",
    "-fsanitize=thread,alignment,bounds,integer-divide-by-zero",
)  # fmt: skip
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__cluster_dims__\((\d+)[^)]*\)\s*)?'
    r"(?:__launch_bounds__\([^)]*\)\s*)?(\w+)"
)
_TAIL = 20
_KERNELS_AT_ONCE = 24  # files of one run of g++: reading the headers costs as much as ten


@dataclass(frozen=True)
class _Sources(Recipe):
    """A recipe whose files are named as CUDA and C++ do."""

    def __post_init__(self) -> None:
        for file in self.files:
            if re.fullmatch(r"\w+\.(cu|cuh|cpp|hpp)", file.name) is None:
                raise CompilerBug(f"a CUDA source has the name {file.name!r}")


@dataclass(frozen=True)
class _ObjectSources(_Sources):
    """A recipe for something that is linked with others."""

    @property
    def library_name(self) -> str:
        return f"{self.net}.o"


@dataclass(frozen=True)
class EmulatedLibrary:
    """A library on disk and its kernels, each with the file it comes from."""

    path: Path
    kernels: Mapping[str, str]
    compiled: bool
    seconds: float


@dataclass(frozen=True)
class _Step:
    """One run of g++: what it is shown as, and its command."""

    name: str
    command: tuple[str, ...]


def build_emulated(
    net: str, sources: Sequence[SourceFile], progress: Progress | None = None
) -> EmulatedLibrary:
    """Compile CUDA sources for this processor, or find the library of an earlier time.

    Raises ToolchainError if there is no g++ or if it refuses the text.
    """
    started = time.monotonic()
    kernels = {name: file.name for file in sources for name in kernel_names(file)}
    emulator = _build_emulator()
    entries = _entries(sources)
    files = (*sources, *entries, *map(_template, _DEVICE_HEADERS))
    link = ("-shared", "-Wl,-z,defs", "-ldl")
    recipe = _Sources(
        net_name(net), files, _toolchain(_KERNEL_FLAGS, link), (emulator.parent.name,)
    )
    objects = [f"{entry.name}.o" for entry in entries]
    compiles = [
        _Step(entry.name, (*_command(_KERNEL_FLAGS), "-c", entry.name, "-o", output))
        for entry, output in zip(entries, objects, strict=True)
    ]
    library = (*find_compiler(), *objects, str(emulator), *link, "-o", recipe.library_name)
    path, compiled = _build(recipe, compiles, _Step(recipe.library_name, library), progress)
    return EmulatedLibrary(path, kernels, compiled, time.monotonic() - started)


def kernel_names(source: SourceFile) -> tuple[str, ...]:
    """The kernels of a source."""
    return tuple(cluster_sizes(source))


def cluster_sizes(source: SourceFile) -> Mapping[str, int]:
    """How many blocks along x run together, for each kernel of a source."""
    found = {name: int(blocks or 1) for blocks, name in _KERNEL.findall(source.text)}
    if not found:
        raise CompilerBug(f'{source.name} has no `extern "C" __global__ void` kernel')
    return found


def _entries(sources: Sequence[SourceFile]) -> list[SourceFile]:
    """The files that g++ is given: each includes some kernels, and calls them."""
    parts = [sources[n : n + _KERNELS_AT_ONCE] for n in range(0, len(sources), _KERNELS_AT_ONCE)]
    return [
        SourceFile(f"entry_{n}.cpp", _entry_text(part, n * _KERNELS_AT_ONCE))
        for n, part in enumerate(parts)
    ]


def find_compiler() -> tuple[str, ...]:
    """The g++ that CXX names, else the one on the PATH."""
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    path = shutil.which(words[0])
    if path is None:
        raise ToolchainError(
            f"the emulator of CUDA needs g++, and there is no {words[0]!r} on the PATH\n"
            f"  {INSTALL_HINT}"
        )
    return (os.path.abspath(path), *words[1:])


def _build_emulator() -> Path:
    files = tuple(map(_template, (_EMULATOR, *_EMULATOR_PARTS, *_DEVICE_HEADERS)))
    recipe = _ObjectSources("gc_emulator", files, _toolchain(_EMULATOR_FLAGS, ()), ())
    command = (*_command(_EMULATOR_FLAGS), "-c", _EMULATOR, "-o", recipe.library_name)
    return _build(recipe, (), _Step(_EMULATOR, command), None)[0]


def _entry_text(sources: Sequence[SourceFile], first: int) -> str:
    """Each source with its own section of arrays in shared memory, numbered from ``first``."""
    lines = []
    for number, source in enumerate(sources, first):
        section = f"gc_shared_{number}"
        lines += [f'#define GC_SHARED_SECTION "{section}"', f'#include "{source.name}"']
        lines += [f"GC_EMULATE({name}, {section})" for name in kernel_names(source)]
        lines += ["#undef GC_SHARED_SECTION", ""]
    return "\n".join(lines)


def _template(name: str) -> SourceFile:
    return SourceFile(name, (template_folder() / "cuda" / name).read_text(encoding="utf-8"))


def _command(flags: tuple[str, ...]) -> tuple[str, ...]:
    return (*find_compiler(), *flags)


def _toolchain(flags: tuple[str, ...], link: tuple[str, ...]) -> Toolchain:
    """What the key of a library has to hold; the flags name no processor, so neither does it."""
    command = find_compiler()
    facts = Path(command[0]).stat()
    version, target = _identity(command, (facts.st_mtime_ns, facts.st_size))
    return Toolchain(command, version, target, flags, link, (), "scalar", ())


@cache
def _identity(command: tuple[str, ...], changed: tuple[int, int]) -> tuple[str, str]:
    answers = []
    for question in ("--version", "-dumpmachine"):
        done = subprocess.run([*command, question], capture_output=True, text=True, check=False)
        if done.returncode or not done.stdout:
            raise ToolchainError(f"{shlex.join(command)} does not answer {question}")
        answers.append(done.stdout.splitlines()[0])
    return answers[0], answers[1]


def _build(
    recipe: Recipe, compiles: Sequence[_Step], last: _Step, progress: Progress | None
) -> tuple[Path, bool]:
    """The library, and whether it was made now: ``compiles`` side by side, then ``last``."""
    root = build_root()
    entry = root / recipe.folder_name
    made = False
    if not is_intact(entry, recipe):
        with key_lock(root, recipe.key) as held:
            if not is_intact(entry, recipe):
                _build_in_turn(recipe, compiles, last, root, held, progress)
                made = True
    return entry / recipe.library_name, made


def _build_in_turn(
    recipe: Recipe, compiles: Sequence[_Step], last: _Step, root: Path, held: bool,
    progress: Progress | None,
) -> None:  # fmt: skip
    if held:
        discard_leftovers(root, recipe)
    with staging(root, recipe) as folder:
        done = 0
        with ThreadPoolExecutor(available_cores()) as pool:
            running = [pool.submit(_run, step, folder) for step in compiles]
            try:
                for step, refused in zip(compiles, running, strict=True):
                    _check(refused.result(), recipe, folder, root)
                    done += 1
                    if progress is not None:
                        progress(done, len(compiles) + 1, step.name)
            finally:
                for item in running:
                    item.cancel()
        _check(_run(last, folder), recipe, folder, root)
        if progress is not None:
            progress(done + 1, len(compiles) + 1, last.name)
        with storage(folder, "write"):
            for left in folder.glob("entry_*.o"):
                left.unlink()
        publish(folder, root / recipe.folder_name, recipe)


def _check(refused: str, recipe: Recipe, folder: Path, root: Path) -> None:
    if refused:
        kept = keep_failed(folder, root, recipe)
        raise ToolchainError(f"{recipe.net}: {refused}\n  sources: {kept}")


def _run(step: _Step, folder: Path) -> str:
    """Empty, or why the command failed."""
    command = (*step.command, f"-ffile-prefix-map={folder}=.")
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False,
            timeout=compile_timeout(), env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"g++ did not end in time\n  command: {shlex.join(command)}"
    if not done.returncode:
        return ""
    lines = "".join(f"\n    {line}" for line in done.stderr.splitlines()[:_TAIL])
    return f"g++ failed\n  command: {shlex.join(command)}\n  its first lines:{lines}"
