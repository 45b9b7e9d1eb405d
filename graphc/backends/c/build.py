"""Generated C sources become one shared library, compiled once for one set of ingredients."""

import contextlib
import ctypes
import errno
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.backends.c.cache import (
    Recipe,
    build_root,
    checked_manifest,
    discard_leftovers,
    failed_folder,
    is_intact,
    keep_failed,
    key_lock,
    net_name,
    publish,
    staging,
    storage,
)
from graphc.backends.c.toolchain import Toolchain, compile_timeout, end, find_toolchain, start
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile

Progress = Callable[[int, int, str], None]

OBJECTS = "objects"
_TAIL = 20
_POLL_SECONDS = 0.005
_LITTLE_SPACE = 1 << 20  # bytes


@dataclass(frozen=True)
class BuiltLibrary:
    """A library on disk; ``compiled`` is False if it was there already."""

    path: Path
    folder: Path
    compiled: bool
    seconds: float


@dataclass(frozen=True)
class _Step:
    """One run of the compiler: the file it is shown as, its command, the file it has to write."""

    name: str
    command: tuple[str, ...]
    output: str


class _StepFailed(Exception):
    def __init__(self, step: _Step, reason: str):
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class _Running:
    step: _Step
    process: subprocess.Popen[str]
    deadline: float


def build_library(
    net: str,
    files: Sequence[SourceFile],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    link: Sequence[str] = ("-lm",),
) -> BuiltLibrary:
    """Compile the .c files and link them, or find the library of an earlier, identical build.

    ``jobs`` compilers run at a time, by default one a processor. ``progress`` gets the steps done,
    their number and the name of the file just finished. Raises ToolchainError if the compiler is
    missing or fails, UserError for a setting or a build folder that will not do.
    """
    started = time.monotonic()
    toolchain = find_toolchain()
    _check_runs_here(toolchain)
    recipe = Recipe(net_name(net), tuple(files), toolchain, tuple(link))
    workers = worker_count(jobs)
    root = build_root()
    entry = root / recipe.folder_name
    compiled = not is_intact(entry, recipe) and _build_once(recipe, root, workers, progress)
    return BuiltLibrary(entry / recipe.library_name, entry, compiled, time.monotonic() - started)


def load(path: Path) -> ctypes.CDLL:
    """Load a library of ``build_library``; one that is damaged raises ToolchainError instead."""
    _check_sanitizer(path, checked_manifest(path)["toolchain"]["link_flags"])
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ToolchainError(
            f"cannot load {path}: {error}\n"
            "  If its folder is mounted noexec, set GRAPHC_BUILD_DIR to one that is not."
        ) from error


def _build_once(recipe: Recipe, root: Path, workers: int, progress: Progress | None) -> bool:
    """Build unless another process did while we waited; True if we compiled."""
    entry = root / recipe.folder_name
    with key_lock(root, recipe.key) as held:
        if is_intact(entry, recipe):
            return False
        if held:
            discard_leftovers(root, recipe)
        with staging(root, recipe) as folder:
            _compile(recipe, folder, root, workers, progress)
            publish(folder, entry, recipe)
        shutil.rmtree(failed_folder(root, recipe), ignore_errors=True)
    return True


def _compile(
    recipe: Recipe, folder: Path, root: Path, workers: int, progress: Progress | None
) -> None:
    compiles, linking = _steps(recipe, folder, root / recipe.folder_name)
    with storage(folder, "write"):
        (folder / OBJECTS).mkdir()
    done = 0

    def report(step: _Step) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(compiles) + 1, step.name)

    try:
        _run(compiles, folder, workers, report)
        _run([linking], folder, 1, report)
    except _StepFailed as failure:
        _check_space(root)
        kept = keep_failed(folder, root, recipe)
        raise ToolchainError(_explain(failure, kept)) from None
    with storage(folder, "write"):
        shutil.rmtree(folder / OBJECTS)


def _steps(recipe: Recipe, folder: Path, entry: Path) -> tuple[list[_Step], _Step]:
    toolchain = recipe.toolchain
    flags = toolchain.flags
    if "-g" in flags:  # debuggers are to look for the sources where they will be
        flags = (*flags, f"-ffile-prefix-map={folder}={entry}")
    sources = [file for file in recipe.files if file.name.endswith(".c")]
    if not sources:
        raise CompilerBug(f"no C source was generated for {recipe.net}")
    objects = [f"{OBJECTS}/{file.name[:-2]}.o" for file in sources]
    compiles = [
        _Step(file.name, (*toolchain.command, *flags, "-c", file.name, "-o", output), output)
        for file, output in zip(sources, objects, strict=True)
    ]
    library = recipe.library_name
    outputs = (*objects, "-o", library, *recipe.link)
    linking = _Step(library, (*toolchain.command, *toolchain.link_flags, *outputs), library)
    longest_first = sorted(zip(sources, compiles, strict=True), key=lambda x: -len(x[0].text))
    return [step for _, step in longest_first], linking


def _run(
    steps: Sequence[_Step], folder: Path, workers: int, report: Callable[[_Step], None]
) -> None:
    """Run steps, ``workers`` at a time; the first that fails, or an interrupt, ends the others."""
    waiting = list(reversed(steps))
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_begin(waiting.pop(), folder))
            ended = [item for item in running if _has_ended(item)]
            running = [item for item in running if item not in ended]
            for item in ended:
                _check_output(item, folder)
                report(item.step)
            if not ended:
                time.sleep(_POLL_SECONDS)
    finally:
        for item in running:
            end(item.process)


def _begin(step: _Step, folder: Path) -> _Running:
    with storage(folder, "write"), open(_log_path(step, folder), "wb") as log:
        process = start(step.command, folder, log.fileno())
    return _Running(step, process, time.monotonic() + compile_timeout())


def _has_ended(item: _Running) -> bool:
    if item.process.poll() is not None:
        return True
    if time.monotonic() > item.deadline:
        reason = f"it did not end within {compile_timeout():g} s and was stopped"
        raise _StepFailed(item.step, f"{reason} (GRAPHC_COMPILE_TIMEOUT sets this limit)")
    return False


def _check_output(item: _Running, folder: Path) -> None:
    code = item.process.returncode
    if code < 0:
        with contextlib.suppress(ValueError):
            raise _StepFailed(item.step, f"it was ended by {signal.Signals(-code).name}")
    if code:
        raise _StepFailed(item.step, f"exit code {code}")
    output = folder / item.step.output
    if not output.is_file() or not output.stat().st_size:
        raise _StepFailed(item.step, f"exit code 0, but it did not write {item.step.output}")


def _check_space(root: Path) -> None:
    """A compiler that met a full disk may have had no room left to say so."""
    with storage(root, "write"):
        if shutil.disk_usage(root).free < _LITTLE_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _explain(failure: _StepFailed, kept: Path) -> str:
    step, tail = failure.step, ""
    source = kept / step.name
    with contextlib.suppress(OSError):
        written = _log_path(step, kept).read_text(encoding="utf-8", errors="replace")
        tail = "".join(f"\n    {line}" for line in written.splitlines()[-_TAIL:])
    return (
        f"{step.name}: the C compiler failed: {failure.reason}\n"
        f"  command: cd {shlex.quote(str(kept))} && {shlex.join(step.command)}\n"
        f"  source:  {source if source.exists() else kept}\n"
        f"  its last lines:{tail or ' none'}"
    )


def _log_path(step: _Step, folder: Path) -> Path:
    return folder / OBJECTS / f"{step.name}.log"


def worker_count(jobs: int | None = None) -> int:
    """How many compilers run at a time: as asked, by default one a processor."""
    if jobs is None:
        affinity = getattr(
            os, "sched_getaffinity", None
        )  # Linux; it knows the limits of a container
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, here {jobs}")
    return jobs


def _check_runs_here(toolchain: Toolchain) -> None:
    if toolchain.missing:
        raise UserError(
            "GRAPHC_MARCH asks for instructions that this processor does not have\n"
            f"  value:   {os.environ.get('GRAPHC_MARCH')!r}\n"
            f"  missing: {', '.join(toolchain.missing)}\n"
            "  Unset it to build for this processor."
        )


def _check_sanitizer(path: Path, link_flags: Sequence[str]) -> None:
    """A sanitizer that is not loaded before Python ends the process; refuse in time."""
    flags = " ".join(link_flags)
    for sanitizer, library in (("address", "asan"), ("thread", "tsan")):
        if sanitizer in flags and not hasattr(ctypes.CDLL(None), f"__{library}_init"):
            raise UserError(
                f"{path.name} is built with GRAPHC_SANITIZE, whose library has to be loaded first\n"
                f"  Start Python with LD_PRELOAD=$(gcc -print-file-name=lib{library}.so)."
            )
