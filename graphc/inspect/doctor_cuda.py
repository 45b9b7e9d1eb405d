"""What `graphc doctor` says of CUDA: what is installed, whether it fits together, what to install.

The C target needs none of it, and CUDA is written and emulated without a GPU.
"""

from __future__ import annotations

import shutil

from graphc.backends.cuda.compile import DeviceCompiler, find_device_compiler
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.disassemble import INSTALL_HINT as DISASSEMBLER_HINT
from graphc.backends.cuda.disassemble import find_disassembler
from graphc.backends.cuda.gpu import older_compiler_hint
from graphc.backends.cuda.libcuda import driver_version
from graphc.backends.cuda.nvrtc import INSTALL_HINT as COMPILER_HINT
from graphc.errors import ToolchainError, UserError
from graphc.inspect.check import Check, version_of

_OPTIONAL = "missing (not needed to train on the CPU)"
_DRIVER = (
    "apt-get install nvidia-driver (Debian), ubuntu-drivers install (Ubuntu); "
    "a container is run with --gpus all"
)
_PYCUDA = (
    "pip install 'graphc-compiler[cuda]', with g++ and a CUDA toolkit's nvcc on the PATH: "
    "PyCUDA is compiled on the way"
)


def cuda_checks() -> tuple[Check, ...]:
    """Every check, in the order in which a GPU needs the thing."""
    driver, compiler = driver_version(), _compiler()
    return (
        _driver(driver), _compiler_check(driver, compiler), *_pycuda(driver), _disassembler(),
        _optional("CUDA emulator", shutil.which("g++"), "apt-get install g++"),
    )  # fmt: skip


def _compiler() -> DeviceCompiler | ToolchainError | UserError:
    try:
        return find_device_compiler()
    except (ToolchainError, UserError) as error:
        return error


def _driver(version: tuple[int, int] | None) -> Check:
    found = None if version is None else "for CUDA {}.{}".format(*version)
    return _optional("CUDA driver", found, _DRIVER)


def _compiler_check(
    driver: tuple[int, int] | None, compiler: DeviceCompiler | ToolchainError | UserError
) -> Check:
    """A cubin runs with any driver of the compiler's major version, and with later ones."""
    name = "CUDA compiler"
    if isinstance(compiler, UserError):
        lines = [line.strip() for line in str(compiler).splitlines()]
        return Check(name, lines[0], " ".join(lines[1:]))
    if isinstance(compiler, ToolchainError):
        return Check(name, _OPTIONAL, COMPILER_HINT)
    if driver is not None and compiler.major > driver[0]:
        found = f"{compiler.name}: later than the driver, which takes CUDA {driver[0]}"
        return Check(name, found, older_compiler_hint(driver[0]))
    return Check(name, compiler.name)


def _pycuda(driver: tuple[int, int] | None) -> tuple[Check, ...]:
    """PyCUDA, and the GPU that it shows where there is a driver."""
    version = version_of("pycuda")
    if not version:
        return (Check("PyCUDA", _OPTIONAL, _PYCUDA),)
    if driver is None:
        return (Check("PyCUDA", f"{version}, of no use without a driver"),)
    try:
        return (Check("PyCUDA", version), Check("GPU", open_device("cuda").name))
    except ToolchainError as error:
        first, *rest = (line.strip() for line in str(error).splitlines())
        return (Check("PyCUDA", version), Check("GPU", first, rest[0] if rest else ""))


def _disassembler() -> Check:
    """What shows the machine instructions of a kernel."""
    return _optional("disassembler", find_disassembler(), DISASSEMBLER_HINT)


def _optional(name: str, found: str | None, fix: str) -> Check:
    return Check(name, found or _OPTIONAL, "" if found else fix)
