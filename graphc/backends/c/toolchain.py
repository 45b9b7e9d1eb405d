"""The C compiler of this machine: which program, with which flags, for which processor.

Whatever changes the bytes of a library besides its sources is collected here, so that the key of a
cached build can hold it.
"""

import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphc.errors import ToolchainError, UserError

INSTALL_HINT = "Install one: apt-get install gcc (Debian, Ubuntu), xcode-select --install (macOS)."
SANITIZERS = ("address", "thread", "undefined")
DEFAULT_TIMEOUT = 600.0

_BASE = ("-std=c11", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Linked into a library, these switch off denormal numbers in the whole Python process.
_FAST_MATH = frozenset({"-ffast-math", "-Ofast", "-funsafe-math-optimizations"})
_VECTORS = (
    ("avx512_bf16", {"__AVX512F__", "__AVX512BF16__"}),
    ("avx512", {"__AVX512F__"}),
    ("avx2", {"__AVX2__", "__FMA__"}),
    ("neon", {"__ARM_NEON"}),
)
_INSTRUCTIONS = re.compile(r"__(S?SSE|AVX|FMA|F16C|BMI|LZCNT|POPCNT|MOVBE|ARM_(NEON|FEATURE_))\w*")
# From the `cc1` line. Cache sizes stay out: the cores of one hybrid processor differ in them.
_RESOLVED = re.compile(r" -m(?!no-)[\w.=-]+| -target-(?:cpu|feature) \S+| -tune-cpu \S+")
_OPENMP_PROGRAM = """
#include <omp.h>
int main(void) {
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += 1;
  return threads >= 1 && omp_get_max_threads() >= 1 ? 0 : 1;
}
"""


@dataclass(frozen=True)
class Toolchain:
    """A C compiler with the flags it gets; ``simd`` is one of _VECTORS or scalar."""

    command: tuple[str, ...]
    version: str
    target: str
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    features: tuple[str, ...]
    simd: str
    missing: tuple[str, ...]  # instruction sets that the flags use and this processor lacks

    @property
    def openmp(self) -> bool:
        """Whether the kernels run on threads."""
        return "-fopenmp" in self.flags


@dataclass(frozen=True)
class _Target:
    """What a compiler says of itself and of the processor for one ``-march``."""

    version: str
    name: str
    macros: frozenset[str]
    resolved: frozenset[str]

    @property
    def instructions(self) -> frozenset[str]:
        return frozenset(name for name in self.macros if _INSTRUCTIONS.fullmatch(name))


def find_toolchain() -> Toolchain:
    """The compiler that CC names, else gcc, cc or clang, with the flags that GRAPHC_* ask for.

    Raises UserError for a variable that makes no sense, ToolchainError for a compiler that is
    missing or does not work.
    """
    command = find_command()
    facts = Path(command[0]).stat()
    identity = (facts.st_mtime_ns, facts.st_size)  # a compiler replaced under us is asked again
    return _toolchain(command, identity, _march(), _openmp_wish(), _sanitizers())


def find_command() -> tuple[str, ...]:
    """The compiler as an argument list that starts with an absolute path."""
    asked = os.environ.get("CC", "").strip()
    if not asked:
        found = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
        if found is None:
            raise ToolchainError(
                f"no C compiler: looked for gcc, cc and clang on the PATH\n  {INSTALL_HINT}"
            )
        return (os.path.abspath(found),)
    words = [asked] if os.path.isfile(asked) else _split(asked)
    path = shutil.which(words[0])
    if path is None:
        raise ToolchainError(
            f"no C compiler: CC is {asked!r}, and {words[0]!r} is not a program that can be run\n"
            f"  Correct CC or unset it. {INSTALL_HINT}"
        )
    return (os.path.abspath(path), *words[1:])


def compile_timeout() -> float:
    """Seconds that one run of the compiler may take (GRAPHC_COMPILE_TIMEOUT)."""
    asked = os.environ.get("GRAPHC_COMPILE_TIMEOUT", "").strip()
    if not asked:
        return DEFAULT_TIMEOUT
    with contextlib.suppress(ValueError):
        seconds = float(asked)
        if math.isfinite(seconds) and seconds > 0:
            return seconds
    raise _illegal("GRAPHC_COMPILE_TIMEOUT", asked, "a number of seconds above 0, such as 600")


def start(
    command: Sequence[str], folder: Path, output: int, text: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start a program in a group of its own, so that ``end`` reaches what it starts in turn."""
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=text,
            stdout=output,
            stderr=output,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolchainError(
            f"cannot run {shlex.join(command)}: {error.strerror}\n"
            f"  Correct CC or unset it. {INSTALL_HINT}"
        ) from error


def end(process: subprocess.Popen[str]) -> None:
    """End a program and what it started, at once; one that has ended is left alone."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(command: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a short program fed with ``text``."""
    timeout = compile_timeout()
    pipe = subprocess.PIPE
    with start(command, Path(os.sep), pipe, pipe) as process:
        try:
            out, err = process.communicate(text, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ToolchainError(
                f"the compiler did not end within {timeout:g} s and was stopped\n"
                f"  command: {shlex.join(command)}\n"
                f"  Correct CC, or allow more time with GRAPHC_COMPILE_TIMEOUT."
            ) from None
        finally:
            end(process)
    return process.returncode, out, err


@cache
def _toolchain(
    command: tuple[str, ...],
    identity: tuple[int, int],
    march: str,
    openmp: bool | None,
    sanitizers: tuple[str, ...],
) -> Toolchain:
    target = _target(command, identity, march)
    native = target if march == "native" else _target(command, identity, "native")
    if openmp is None:
        openmp = _openmp_works(command)
    elif openmp and not _openmp_works(command):
        raise ToolchainError(
            f"GRAPHC_OPENMP is 1, but {command[0]} cannot build and run a program with OpenMP\n"
            "  Install gcc with libgomp (apt-get install gcc), or unset GRAPHC_OPENMP."
        )
    threads = "-fopenmp" if openmp else "-fopenmp-simd"
    sanitize = (f"-fsanitize={','.join(sanitizers)}",) if sanitizers else ()
    checked = ("-O1", "-g", "-fno-var-tracking", *sanitize, "-fno-sanitize-recover=all")
    effort = checked if sanitize else ("-O3",)
    return Toolchain(
        command=command,
        version=target.version,
        target=target.name,
        flags=(*_BASE, *effort, f"-march={march}", threads, *_WARNINGS),
        link_flags=("-shared", threads, *(sanitize or _no_undefined(target))),
        features=tuple(sorted(target.instructions | target.resolved)),
        simd=next((name for name, needs in _VECTORS if needs <= target.macros), "scalar"),
        missing=tuple(sorted(target.instructions - native.instructions)),
    )


@cache
def _target(command: tuple[str, ...], identity: tuple[int, int], march: str) -> _Target:
    query = (*command, f"-march={march}", "-v", "-dM", "-E", "-x", "c", "-")
    code, out, err = _run(query)
    if code:
        raise _refused(query, march, code, err)
    version = re.search(r"^.*\b(?:gcc|clang) version .*$", err, re.MULTILINE)
    name = re.search(r"^Target: (.*)$", err, re.MULTILINE)
    macros = re.findall(r"^#define (\w+) 1$", out, re.MULTILINE)
    if version is None or name is None or not macros:
        raise ToolchainError(
            f"{command[0]} does not answer like gcc or clang\n"
            f"  command: {shlex.join(query)}\n"
            f"  Set CC to gcc or clang, or unset it. {INSTALL_HINT}"
        )
    driver = next((line for line in err.splitlines() if re.search(r"cc1\b", line)), "")
    resolved = _RESOLVED.findall(driver.replace('"', ""))
    return _Target(
        version=version[0].strip(),
        name=name[1].strip(),
        macros=frozenset(macros),
        resolved=frozenset(word.strip() for word in resolved),
    )


def _refused(query: Sequence[str], march: str, code: int, err: str) -> Exception:
    legal = re.search(r"(?:valid arguments to|valid target CPU values are).*?: *(.*)", err)
    if march != "native" and ("-march=" in err or legal):
        names = legal[1].strip() if legal else "the names that `-march=` of your compiler takes"
        return _illegal("GRAPHC_MARCH", march, f"native, {names}")
    tail = "\n    ".join(err.splitlines()[-5:])
    return ToolchainError(
        f"the C compiler does not work: exit code {code}\n"
        f"  command: {shlex.join(query)}\n    {tail}\n"
        f"  Correct CC and GRAPHC_MARCH, or unset them. {INSTALL_HINT}"
    )


def _openmp_works(command: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
        program = os.path.join(folder, "probe")
        if _run((*command, "-fopenmp", "-x", "c", "-", "-o", program), _OPENMP_PROGRAM)[0]:
            return False
        if not os.access(program, os.X_OK):  # no such file, or a temporary folder mounted noexec
            return os.path.isfile(program)
        return _run((program,))[0] == 0


def _no_undefined(target: _Target) -> tuple[str, ...]:
    """A function that no library defines is to fail at the link, not when the library is loaded."""
    return ("-Wl,-z,defs",) if "linux" in target.name else ()


def _split(asked: str) -> list[str]:
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if not words or _FAST_MATH & set(words):
        legal = "a command with balanced quotes and without -ffast-math or -Ofast, such as gcc-13"
        raise _illegal("CC", asked, legal)
    return words


def _march() -> str:
    march = os.environ.get("GRAPHC_MARCH", "").strip() or "native"
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", march) is None:
        raise _illegal("GRAPHC_MARCH", march, "a processor that `-march=` takes: native, haswell")
    return march


def _openmp_wish() -> bool | None:
    """True or False where the user decides, None where the machine does."""
    asked = os.environ.get("GRAPHC_OPENMP", "").strip()
    if asked not in ("", "0", "1"):
        raise _illegal("GRAPHC_OPENMP", asked, "0 (one thread) and 1 (threads)")
    return bool(int(asked)) if asked else None


def _sanitizers() -> tuple[str, ...]:
    asked = os.environ.get("GRAPHC_SANITIZE", "").strip()
    names = sorted({name.strip() for name in asked.split(",")}) if asked else []
    if not set(names) <= set(SANITIZERS) or {"address", "thread"} <= set(names):
        legal = f"{', '.join(SANITIZERS)}, joined by commas; address and thread exclude each other"
        raise _illegal("GRAPHC_SANITIZE", asked, legal)
    return tuple(names)


def _illegal(variable: str, value: str, legal: str) -> UserError:
    return UserError(
        f"the environment variable {variable} has an illegal value\n"
        f"  value: {value!r}\n"
        f"  legal: {legal}"
    )
