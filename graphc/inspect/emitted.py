"""`graphc emit`: the CUDA of a training step in a folder, compiled for several architectures, and
what each kernel takes. It needs no GPU.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from graphc.backends.c.cache import storage
from graphc.backends.cuda.compile import Compiled, Resources, compile_sources
from graphc.backends.cuda.disassemble import INSTALL_HINT, instructions
from graphc.backends.cuda.emit import Emitted, emit
from graphc.errors import UserError
from graphc.inspect.subject import Subject
from graphc.inspect.table import binary_bytes, table
from graphc.lower.grid import lower_to_grid
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.plan import make_schedule
from graphc.verify import check_graph

_ARCHITECTURE = re.compile(r"sm_\d{2,3}[af]?")
_SHOWN = ("HGMMA", "HMMA", "FFMA", "DFMA", "UTMALDG", "LDGSTS", "LDSM", "LDL", "STL")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class KernelReport:
    """One kernel on one architecture; ``shared`` counts static and dynamic bytes.

    ``instructions`` are those that say how it computes and copies, None without a disassembler.
    """

    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int
    instructions: Mapping[str, int] | None


def emit_step(
    subject: Subject, architectures: Sequence[str], folder: Path,
    progress: Progress | None = None,
) -> str:  # fmt: skip
    """Write sources, cubins and the table ``kernels.txt`` (and ``.json``); the table.

    Raises:
        UserError: an architecture of another form, or a folder that cannot be written.
        ToolchainError: there is no CUDA compiler, or it refused a kernel.
    """
    for name in architectures:
        if _ARCHITECTURE.fullmatch(name) is None:
            raise UserError(f"there is no architecture {name!r}\n  expected some, as sm_80,sm_90a")
    check_graph(subject.step)
    schedule = make_schedule(run_passes(subject.step, PRECISIONS[subject.precision]))
    emitted = emit(schedule, lower_to_grid(schedule, tf32=subject.precision == "tf32"))
    with storage(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    compiled = compile_sources(subject.name, emitted.files, architectures, progress)
    _copy(compiled, emitted, folder)
    reports = kernel_reports(compiled, emitted)
    text = _text(reports, emitted, schedule.arena_bytes)
    with storage(folder, "write"):
        (folder / "kernels.txt").write_text(text + "\n", "utf-8")
        document = json.dumps([asdict(report) for report in reports], indent=1)
        (folder / "kernels.json").write_text(document + "\n", "utf-8")
    return text


def kernel_reports(compiled: Compiled, emitted: Emitted) -> tuple[KernelReport, ...]:
    """What ptxas and the disassembler say of every kernel."""
    dynamic = {launch.kernel: launch.shared_bytes for launch in emitted.launches}
    counts: dict[tuple[str, str], Mapping[str, int]] = {}
    for (_, architecture), cubin in compiled.cubins.items():
        for kernel, found in (instructions(cubin) or {}).items():
            counts[kernel, architecture] = _shown(found)
    return tuple(
        _report(one, dynamic[one.kernel], counts.get((one.kernel, one.architecture)))
        for one in compiled.resources
    )


def _report(one: Resources, dynamic: int, counts: Mapping[str, int] | None) -> KernelReport:
    return KernelReport(
        one.kernel, one.architecture, one.registers, one.shared + dynamic, one.stack, one.spills,
        counts,
    )  # fmt: skip


def _shown(found: Counter[str]) -> Mapping[str, int]:
    """The instructions that tell how a kernel works, whatever their variants."""
    families = Counter[str]()
    for name, count in found.items():
        families[name.partition(".")[0]] += count
    return {name: families[name] for name in _SHOWN if families[name]}


def _copy(compiled: Compiled, emitted: Emitted, folder: Path) -> None:
    with storage(folder, "write"):
        for file in emitted.files:
            (folder / file.name).write_text(file.text, "utf-8")
        shutil.copy(compiled.folder / "gc_device.cuh", folder)
        for cubin in compiled.cubins.values():
            shutil.copy(cubin, folder)


def _text(reports: Sequence[KernelReport], emitted: Emitted, arena: int) -> str:
    rows = [
        (
            r.kernel, r.architecture, str(r.registers), binary_bytes(r.shared), str(r.stack),
            str(r.spills), _counted(r.instructions),
        )
        for r in reports
    ]  # fmt: skip
    headers = (
        "kernel", "architecture", "registers:", "shared:", "stack:", "spills:", "instructions",
    )  # fmt: skip
    lines = table(headers, rows)
    if any(r.instructions is None for r in reports):
        lines.append(f"instructions are not known without a disassembler: {INSTALL_HINT}")
    memory = f"{binary_bytes(arena)} for intermediate values"
    work = f"{binary_bytes(emitted.workspace_bytes)} for pieces of sums"
    return "\n".join([*lines, "", f"{len(emitted.launches)} launches a step, {memory}, {work}"])


def _counted(found: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in (found or {}).items())
