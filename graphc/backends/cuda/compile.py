"""CUDA sources -> cubins, by NVRTC where its wheel is, else by nvcc; cached like C."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
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
from graphc.backends.cuda.nvrtc import INSTALL_HINT, Nvrtc, find_nvrtc
from graphc.backends.cuda.twins import Twins, find_twins
from graphc.backends.templating import template_folder
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile

COMPILER_VARIABLE = "GRAPHC_CUDA_COMPILER"
COMPILERS = ("nvcc", "nvrtc")
_FLAGS = ("-std=c++17",)
_HEADER = "gc_device.cuh"
_BYTES_PER_JOB = 1 << 30
_TAIL = 20
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class DeviceCompiler:
    """nvcc as a command, or NVRTC as a library; what is asked of it goes into the key."""

    command: tuple[str, ...]
    version: str
    nvrtc: Nvrtc | None = None

    @property
    def major(self) -> int:
        """The first number of the release."""
        return int(self.version.partition(".")[0])

    @property
    def name(self) -> str:
        """For people."""
        return f"{'NVRTC' if self.nvrtc else self.command[0]} {self.version}"


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture: registers a thread, bytes of the rest."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """A folder of sources and cubins: (source, architecture) -> path, and what kernels take.

    Sources that differ in names alone share a cubin: ``symbols`` gives each kernel's name in it.
    """

    folder: Path
    cubins: Mapping[tuple[str, str], Path]
    symbols: Mapping[str, str]
    resources: tuple[Resources, ...]
    compiled: bool
    seconds: float


@dataclass(frozen=True)
class _Sources(Recipe):
    """A recipe of CUDA sources; its library is the table of the cubins."""

    def __post_init__(self) -> None:
        for file in self.files:
            if re.fullmatch(r"\w+\.(cu|cuh)", file.name) is None:
                raise CompilerBug(f"a CUDA source has the name {file.name!r}")

    @property
    def library_name(self) -> str:
        return "kernels.json"


@dataclass(frozen=True)
class _Cubin:
    source: SourceFile
    architecture: str

    @property
    def name(self) -> str:
        return f"{self.source.name.removesuffix('.cu')}.{self.architecture}.cubin"


def find_device_compiler(asked: str | None = None) -> DeviceCompiler:
    """NVRTC of its wheel, else nvcc of a toolkit, which takes several times as long.

    ``asked``, else the variable GRAPHC_CUDA_COMPILER, names one of them: "nvcc" or "nvrtc".

    Raises:
        ToolchainError: there is neither, or not the one that is asked for.
        UserError: the variable names something else.
    """
    asked = asked or os.environ.get(COMPILER_VARIABLE, "").strip()
    if asked not in ("", *COMPILERS):
        raise UserError(
            f"the environment variable {COMPILER_VARIABLE} has an illegal value\n"
            f"  value: {asked!r}\n  legal: {', '.join(COMPILERS)}; unset it to take what there is"
        )
    nvrtc = None if asked == "nvcc" else find_nvrtc()
    if nvrtc is not None:
        return DeviceCompiler((), "{}.{}".format(*nvrtc.version), nvrtc)
    nvcc = None if asked == "nvrtc" else _nvcc_path()
    if nvcc is not None:
        return DeviceCompiler((nvcc,), _nvcc_version(nvcc))
    wanted = asked or "NVRTC, or nvcc of a CUDA toolkit"
    raise ToolchainError(
        f"CUDA text is compiled by {wanted}, which is not installed\n  Install it: {INSTALL_HINT}"
    )


def compile_sources(
    net: str, files: Sequence[SourceFile], architectures: Sequence[str],
    progress: Progress | None = None, compiler: DeviceCompiler | None = None,
) -> Compiled:  # fmt: skip
    """The cubins of every source for every architecture, such as "sm_80" or "sm_90a".

    ``progress`` gets the cubins made, their number and the name of the last.

    Raises:
        ToolchainError: there is no compiler, or it refused a text or warned about one.
    """
    started = time.monotonic()
    compiler = compiler or find_device_compiler()
    header = SourceFile(_HEADER, (template_folder() / "cuda" / _HEADER).read_text("utf-8"))
    chain = Toolchain(
        compiler.command, compiler.name, ",".join(architectures), _FLAGS, (), (), "scalar", ()
    )
    recipe = _Sources(net_name(net), (*files, header), chain, ())
    twins = find_twins(files)
    wanted = [_Cubin(file, name) for name in architectures for file in twins.distinct]
    root = build_root()
    entry = root / recipe.folder_name
    made = False
    if not is_intact(entry, recipe) or not _cubins_intact(entry):
        with key_lock(root, recipe.key) as held:
            if held:
                discard_leftovers(root, recipe)
            with staging(root, recipe) as folder:
                _compile_all(compiler, wanted, header, folder, root, recipe, progress)
                publish(folder, entry, recipe)
        made = True
    table = json.loads((entry / recipe.library_name).read_bytes())
    resources = _of_all_kernels([Resources(**one) for one in table["kernels"]], twins)
    made_for = {(c.source.name, c.architecture): entry / c.name for c in wanted}
    cubins = {
        (file.name, name): made_for[twins.source_of[file.name], name]
        for name in architectures
        for file in files
    }
    spent = time.monotonic() - started
    return Compiled(entry, cubins, twins.symbol_of, resources, made, spent)


def _of_all_kernels(found: Sequence[Resources], twins: Twins) -> tuple[Resources, ...]:
    """What every kernel takes, from what those that were compiled take."""
    known = {(one.architecture, one.kernel): one for one in found}
    return tuple(
        replace(known[architecture, symbol], kernel=kernel)
        for architecture in sorted({one.architecture for one in found})
        for kernel, symbol in sorted(twins.symbol_of.items())
    )


def _compile_all(
    compiler: DeviceCompiler, wanted: Sequence[_Cubin], header: SourceFile, folder: Path,
    root: Path, recipe: _Sources, progress: Progress | None,
) -> None:  # fmt: skip
    """All cubins into the folder, longest texts first, and the table that describes them."""
    ordered = sorted(wanted, key=lambda cubin: -len(cubin.source.text))
    resources: list[Resources] = []
    try:
        with ThreadPoolExecutor(_jobs()) as pool:
            running = {pool.submit(_compile, compiler, c, header, folder): c for c in ordered}
            try:
                for number, item in enumerate(as_completed(running), 1):
                    resources += item.result()
                    if progress is not None:
                        progress(number, len(ordered), running[item].name)
            finally:
                for item in running:
                    item.cancel()
    except ToolchainError as error:
        kept = keep_failed(folder, root, recipe)
        raise ToolchainError(f"{error}\n  sources: {kept}") from None
    table = {
        "kernels": [asdict(r) for r in sorted(resources, key=lambda r: (r.architecture, r.kernel))],
        "cubins": {c.name: _digest(folder / c.name) for c in wanted},
    }
    with storage(folder, "write"):
        (folder / recipe.library_name).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _compile(
    compiler: DeviceCompiler, cubin: _Cubin, header: SourceFile, folder: Path
) -> list[Resources]:
    """Write one cubin; what ptxas says of its kernels."""
    nvrtc, name = compiler.nvrtc, cubin.source.name
    if nvrtc is not None:
        options = (f"-arch={cubin.architecture}", *_FLAGS, "--ptxas-options=-v")
        code, said = nvrtc.compile(cubin.source.text, name, options, ((_HEADER, header.text),))
        with storage(folder, "write"):
            (folder / cubin.name).write_bytes(code)
    else:
        said = _run_nvcc(compiler, cubin, folder)
    if "warning" in said.lower():
        raise ToolchainError(f"{name}: the CUDA compiler warns\n{_last(said)}")
    return _resources(said)


def _run_nvcc(compiler: DeviceCompiler, cubin: _Cubin, folder: Path) -> str:
    command = (
        *compiler.command, f"-arch={cubin.architecture}", "-cubin", *_FLAGS, "-Xptxas=-v",
        cubin.source.name, "-o", cubin.name,
    )  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False,
            timeout=compile_timeout(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"nvcc did not end in time: {shlex.join(command)}") from None
    if done.returncode:
        raise ToolchainError(
            f"{cubin.source.name}: nvcc failed\n  command: {shlex.join(command)}\n"
            f"  its last lines:\n{_last(done.stderr)}"
        )
    return done.stderr


def _last(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-_TAIL:])


def _resources(said: str) -> list[Resources]:
    """The kernels of one run of ptxas in verbose mode."""
    found = []
    for part in said.split("Compiling entry function")[1:]:
        entry = _ENTRY.search("Compiling entry function" + part)
        stack, used, shared = _STACK.search(part), _USED.search(part), _SHARED.search(part)
        if entry is None or stack is None or used is None:
            raise CompilerBug(f"ptxas describes a kernel in words that are not known:\n{part}")
        found.append(
            Resources(
                entry[1], entry[2], int(used[1]), int(stack[1]), int(stack[2]) + int(stack[3]),
                int(shared[1]) if shared else 0,
            )
        )  # fmt: skip
    return found


def _cubins_intact(entry: Path) -> bool:
    """Whether the cubins are those of the table, which the manifest protects."""
    try:
        table = json.loads((entry / "kernels.json").read_bytes())
        return all(_digest(entry / name) == digest for name, digest in table["cubins"].items())
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _jobs() -> int:
    """A core each, as far as memory goes that nobody uses or that the system can take back."""
    try:
        facts = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        facts = ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", facts, re.MULTILINE)
    if found is None:
        return 1
    return max(1, min(available_cores(), (int(found[1]) << 10) // _BYTES_PER_JOB))


def _nvcc_path() -> str | None:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = ["nvcc", *(f"{home}/bin/nvcc" for home in homes if home)]
    candidates.append("/usr/local/cuda/bin/nvcc")
    return next((path for path in map(shutil.which, candidates) if path), None)


@cache
def _nvcc_version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    if done.returncode or found is None:
        raise ToolchainError(f"{path} does not answer --version")
    return found[1]
