"""Which machine instructions a cubin holds, where NVIDIA's disassembler is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

INSTALL_HINT = "pip install nvidia-cuda-nvdisasm"
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)


def find_disassembler() -> str | None:
    """Nvdisasm on the PATH, or from its wheel."""
    found = shutil.which("nvdisasm")
    if found is not None:
        return found
    wheels = (p for folder in sys.path for p in Path(folder).glob("nvidia/*/bin/nvdisasm"))
    return next(map(str, wheels), None)


def instructions(cubin: Path) -> Mapping[str, Counter[str]] | None:
    """How often each instruction occurs in each kernel; None without a disassembler."""
    program = find_disassembler()
    if program is None:
        return None
    done = subprocess.run([program, str(cubin)], capture_output=True, text=True, check=True)
    starts = list(_SECTION.finditer(done.stdout))
    ends = [match.start() for match in starts[1:]] + [len(done.stdout)]
    return {
        match[1]: Counter(_INSTRUCTION.findall(done.stdout[match.end() : end]))
        for match, end in zip(starts, ends, strict=True)
    }
