"""Which machine instructions kernels hold, where NVIDIA's disassembler is installed, and which they
should hold by what their texts ask for.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphc.backends.cuda.cubin import kernel_codes
from graphc.errors import ToolchainError

INSTALL_HINT = "pip install 'graphc-compiler[cuda-tools]'"
_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE
)
# What a text calls, and the instructions of which one must then be there.
_PROMISES = (
    (r"\bgc_wgmma_(?:bf16|f16|tf32)\b", ("HGMMA",)),
    (r"\bgc_mma_\w+\(", ("HMMA",)),
    (r"\bgc_tma_(?:load|multicast)_\dd\(", ("UTMALDG",)),
    (r"\bgc_cp_async(?:4|8|16)\(", ("LDGSTS",)),
    (r"\bgc_ldmatrix_\w+\(", ("LDSM",)),
    (r"\ba\[i\]\[lane\] \* b\[j\]\[lane\]", ("FFMA", "DFMA", "IMAD")),
)


def expected_instructions(text: str) -> tuple[tuple[str, ...], ...]:
    """What the text of a kernel promises: of each tuple, one instruction must be there.

    The text itself says which tier it is, by the wrappers that it calls.
    """
    return tuple(names for call, names in _PROMISES if re.search(call, text))


def missing_instructions(text: str, found: Mapping[str, int]) -> list[str]:
    """The promises of a kernel's text that its machine code does not keep."""
    families = {name.partition(".")[0] for name in found}
    return [
        " or ".join(names)
        for names in expected_instructions(text)
        if not families.intersection(names)
    ]


def find_disassembler() -> str | None:
    """Nvdisasm from its wheel, else on the PATH."""
    wheels = (p for folder in sys.path for p in sorted(Path(folder).glob("nvidia/*/bin/nvdisasm")))
    return next(map(str, wheels), None) or shutil.which("nvdisasm")


def instructions(cubins: Sequence[Path], architecture: str) -> Mapping[str, Counter[str]] | None:
    """How often each instruction occurs in each kernel; None without a disassembler.

    The kernels of one architecture go through one run, because starting takes most of its time.
    """
    program = find_disassembler()
    if program is None:
        return None
    codes = [item for cubin in cubins for item in kernel_codes(cubin.read_bytes()).items()]
    said = _disassembled(program, b"".join(code for _, code in codes), architecture)
    counts: dict[str, Counter[str]] = {name: Counter() for name, _ in codes}
    ends: list[tuple[int, str]] = []
    end = 0
    for name, code in codes:
        end += len(code)
        ends.append((end, name))
    current = iter(ends)
    end, name = 0, ""
    for found in _INSTRUCTION.finditer(said):
        while int(found[1], 16) >= end:
            end, name = next(current)
        counts[name][found[2]] += 1
    return counts


def _disassembled(program: str, code: bytes, architecture: str) -> str:
    with tempfile.NamedTemporaryFile(prefix="graphc-", suffix=".bin") as file:
        file.write(code)
        file.flush()
        model = architecture.replace("sm_", "SM")
        command = [program, "--no-dataflow", "--binary", model, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolchainError(
            f"{program} failed on code for {architecture}\n  {done.stderr.strip()}\n"
            f"  Install one that knows it: {INSTALL_HINT}"
        )
    return done.stdout
