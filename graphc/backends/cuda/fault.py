"""The error that a kernel raises when it breaks a rule of the machine it runs on."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import CompilerBug

SEED_VARIABLE = "GRAPHC_EMULATOR_SEED"


@dataclass(frozen=True)
class Fault:
    """Which thread of which kernel did what; the order of threads is that of the seed."""

    kernel: str
    what: str
    file: str
    line: int  # 0: unknown
    block: tuple[int, int, int]
    thread: tuple[int, int, int] | None  # None: the block as a whole
    seed: int

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        who = "" if self.thread is None else f", thread {self.thread}"
        return (
            f"{place}: kernel {self.kernel}: {self.what}\n"
            f"  in block {self.block}{who}\n"
            f"  the same order of threads again: {SEED_VARIABLE}={self.seed}"
        )


class KernelFault(CompilerBug):
    """A generated kernel is wrong; ``fault`` says how."""

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def source_line(library: Path, source: str, address: int) -> int:
    """The line of the kernel's source that an instruction comes from; 0 if nobody can tell."""
    program = shutil.which("addr2line")
    if not address or program is None:
        return 0
    done = subprocess.run(
        [program, "-i", "-e", str(library), hex(address)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for frame in done.stdout.splitlines():
        file, _, line = frame.split(" ")[0].rpartition(":")
        if Path(file).name == source and line.isdigit():
            return int(line)
    return 0
