"""`graphc emit`: the CUDA of a training step in a folder, compiled for several architectures, and
what each kernel takes. It needs no GPU.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from graphc.backends.c.cache import storage
from graphc.backends.cuda.architecture import check_architecture, has_boxes
from graphc.backends.cuda.compile import Compiled, DeviceCompiler, Resources, compile_sources
from graphc.backends.cuda.disassemble import (
    INSTALL_HINT,
    expected_instructions,
    instructions,
    missing_instructions,
)
from graphc.backends.cuda.emit import Emitted, emit
from graphc.backends.cuda.emulator_build import kernel_names
from graphc.inspect.subject import Subject
from graphc.inspect.table import binary_bytes, table
from graphc.ir.schedule import Schedule
from graphc.ir.source import SourceFile
from graphc.lower.grid import lower_to_grid
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.plan import make_schedule
from graphc.verify import check_graph

_SHOWN = ("HGMMA", "HMMA", "FFMA", "DFMA", "UTMALDG", "LDGSTS", "LDSM", "LDL", "STL")
_LOCAL = ("LDL", "STL")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class KernelReport:
    """One kernel on one architecture; ``shared`` counts static and dynamic bytes.

    ``expected`` are the instructions that its text asks for, ``instructions`` how many there are of
    those that say how it computes and copies, None without a disassembler; ``missing`` what is
    expected and not there. It is found in ``cubin`` as ``symbol``.
    """

    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int
    expected: tuple[str, ...]
    instructions: Mapping[str, int] | None
    missing: tuple[str, ...]
    cubin: str
    symbol: str

    @property
    def uses_local_memory(self) -> bool:
        """Whether it keeps anything of a thread in memory."""
        local = set(_LOCAL).intersection(self.instructions or {})
        return bool(self.stack or self.spills or local)


def emit_step(
    subject: Subject, architectures: Sequence[str], folder: Path,
    compiler: DeviceCompiler | None = None, progress: Progress | None = None,
) -> str:  # fmt: skip
    """Write sources and cubins, a folder for each architecture, and the table ``kernels.txt`` (and
    ``.json``) of all; the table.

    Raises:
        UserError: an architecture of another form, or a folder that cannot be written.
        ToolchainError: there is no CUDA compiler, or it refused a kernel.
    """
    for name in architectures:
        check_architecture(name)
    check_graph(subject.step)
    graph = run_passes(subject.step, PRECISIONS[subject.precision], copies=True)
    schedule = make_schedule(graph)
    reports: list[KernelReport] = []
    launches: list[str] = []
    for name in architectures:
        emitted = emitted_for(name, schedule, subject.precision)
        compiled = compile_sources(subject.name, emitted.files, (name,), progress, compiler)
        _copy(compiled, emitted, folder / name)
        reports += kernel_reports(compiled, emitted)
        launches.append(f"{name}: {_launch_line(emitted, schedule)}")
    text = "\n".join([*_table_lines(reports), "", *verdict_lines(reports), *launches])
    with storage(folder, "write"):
        (folder / "kernels.txt").write_text(text + "\n", "utf-8")
        document = json.dumps([asdict(report) for report in reports], indent=1)
        (folder / "kernels.json").write_text(document + "\n", "utf-8")
    return text


def emitted_for(architecture: str, schedule: Schedule, precision: str) -> Emitted:
    """The sources that a device of this architecture gets."""
    boxes = has_boxes(architecture)
    return emit(schedule, lower_to_grid(schedule, tf32=precision == "tf32", boxes=boxes))


def kernel_reports(compiled: Compiled, emitted: Emitted) -> tuple[KernelReport, ...]:
    """What ptxas and the disassembler say of every kernel."""
    launches = (*emitted.launches, *emitted.copies)
    dynamic = {launch.kernel: launch.shared_bytes for launch in launches}
    file_of = {name: file for file in emitted.files for name in kernel_texts(file)}
    texts = {name: text for file in emitted.files for name, text in kernel_texts(file).items()}
    counts: dict[str, Mapping[str, Counter[str]] | None] = {}
    for architecture in dict.fromkeys(architecture for _, architecture in compiled.cubins):
        found = {p: None for (_, a), p in compiled.cubins.items() if a == architecture}
        counts[architecture] = instructions(list(found), architecture)
    return tuple(
        _report(one, texts[one.kernel], dynamic[one.kernel], compiled,
                compiled.cubins[file_of[one.kernel].name, one.architecture],
                counts[one.architecture])
        for one in compiled.resources
    )  # fmt: skip


def _report(
    one: Resources, text: str, dynamic: int, compiled: Compiled, cubin: Path,
    counts: Mapping[str, Counter[str]] | None,
) -> KernelReport:  # fmt: skip
    symbol = compiled.symbols[one.kernel]
    found = None if counts is None else counts[symbol]
    return KernelReport(
        one.kernel, one.architecture, one.registers, one.shared + dynamic, one.stack, one.spills,
        tuple("|".join(names) for names in expected_instructions(text)),
        None if found is None else _shown(found),
        () if found is None else tuple(missing_instructions(text, found)), cubin.name, symbol,
    )  # fmt: skip


def kernel_texts(file: SourceFile) -> dict[str, str]:
    """The text of each kernel of a file."""
    names = kernel_names(file)
    starts = [file.text.index(f" {name}(") for name in names]
    ends = [*starts[1:], len(file.text)]
    return {
        name: file.text[start:end] for name, start, end in zip(names, starts, ends, strict=True)
    }


def _shown(found: Counter[str]) -> Mapping[str, int]:
    """The instructions that tell how a kernel works, whatever their variants."""
    families = Counter[str]()
    for name, count in found.items():
        families[name.partition(".")[0]] += count
    return {name: families[name] for name in _SHOWN if families[name]}


def _copy(compiled: Compiled, emitted: Emitted, folder: Path) -> None:
    with storage(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    with storage(folder, "write"):
        for file in emitted.files:
            (folder / file.name).write_text(file.text, "utf-8")
        shutil.copy(compiled.folder / "gc_device.cuh", folder)
        for cubin in set(compiled.cubins.values()):
            shutil.copy(cubin, folder)


def _table_lines(reports: Sequence[KernelReport]) -> list[str]:
    rows = [
        (
            r.kernel, r.architecture, str(r.registers), binary_bytes(r.shared), str(r.stack),
            str(r.spills), " ".join(r.expected), _counted(r.instructions),
        )
        for r in reports
    ]  # fmt: skip
    headers = (
        "kernel", "architecture", "registers:", "shared:", "stack:", "spills:", "asked for",
        "instructions",
    )  # fmt: skip
    return table(headers, rows)


def verdict_lines(reports: Sequence[KernelReport]) -> list[str]:
    """What is wrong with kernels, or that nothing is."""
    lines = [
        f"{r.kernel}, {r.architecture}: keeps values of a thread in memory"
        for r in reports
        if r.uses_local_memory
    ]
    lines += [
        f"{r.kernel}, {r.architecture}: its text asks for {', '.join(r.missing)}, which is missing"
        for r in reports
        if r.missing
    ]
    what = "no kernel spills or uses local memory"
    if any(r.instructions is None for r in reports):
        lines.append(f"instructions are not known without a disassembler: {INSTALL_HINT}")
    else:
        what += "; each has the instructions that its text asks for"
    if not any(r.uses_local_memory or r.missing for r in reports):
        lines.append(what)
    names, cubins = {r.kernel for r in reports}, {(r.architecture, r.cubin) for r in reports}
    equal = "; equal ones share a cubin (kernels.json says where each is)"
    return [*lines, f"{len(names)} kernels in {len(cubins)} cubins{equal}"]


def _launch_line(emitted: Emitted, schedule: Schedule) -> str:
    memory = f"{binary_bytes(schedule.arena_bytes)} for intermediate values"
    work = f"{binary_bytes(emitted.workspace_bytes)} for pieces of sums"
    return f"{len(emitted.launches)} launches a step, {memory}, {work}"


def _counted(found: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in (found or {}).items())
