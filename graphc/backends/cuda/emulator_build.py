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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)')
_TAIL = 20


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
    """A library on disk and the kernels in it."""

    path: Path
    kernels: tuple[str, ...]


def build_emulated(source: SourceFile) -> EmulatedLibrary:
    """Compile a CUDA source for this processor, or find the library of an earlier time.

    Raises ToolchainError if there is no g++ or if it refuses the text.
    """
    kernels = tuple(_KERNEL.findall(source.text))
    if not kernels:
        raise CompilerBug(f'{source.name} has no `extern "C" __global__ void` kernel')
    emulator = _build_emulator()
    entry = SourceFile("entry.cpp", _entry_text(source.name, kernels))
    files = (source, entry, *map(_template, _DEVICE_HEADERS))
    link = ("-shared", "-Wl,-z,defs", "-ldl")
    recipe = _Sources(
        net_name(source.name), files, _toolchain(_KERNEL_FLAGS, link), (emulator.parent.name,)
    )
    compile_ = (*_command(_KERNEL_FLAGS), "-c", entry.name, "-o", "kernel.o")
    library = (*find_compiler(), "kernel.o", str(emulator), *link, "-o", recipe.library_name)
    return EmulatedLibrary(_build(recipe, (compile_, library)), kernels)


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
    return _build(recipe, (command,))


def _entry_text(name: str, kernels: Sequence[str]) -> str:
    lines = [f'#include "{name}"', "", *(f"GC_EMULATE({kernel})" for kernel in kernels)]
    return "\n".join(lines) + "\n"


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


def _build(recipe: Recipe, commands: Sequence[tuple[str, ...]]) -> Path:
    root = build_root()
    entry = root / recipe.folder_name
    if not is_intact(entry, recipe):
        with key_lock(root, recipe.key) as held:
            if not is_intact(entry, recipe):
                _build_in_turn(recipe, commands, root, held)
    return entry / recipe.library_name


def _build_in_turn(
    recipe: Recipe, commands: Sequence[tuple[str, ...]], root: Path, held: bool
) -> None:
    if held:
        discard_leftovers(root, recipe)
    with staging(root, recipe) as folder:
        for command in commands:
            refused = _run((*command, f"-ffile-prefix-map={folder}=."), folder)
            if refused:
                kept = keep_failed(folder, root, recipe)
                raise ToolchainError(f"{recipe.net}: {refused}\n  sources: {kept}")
        with storage(folder, "write"):
            (folder / "kernel.o").unlink(missing_ok=True)
        publish(folder, root / recipe.folder_name, recipe)


def _run(command: Sequence[str], folder: Path) -> str:
    """Empty, or why the command failed."""
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
