"""The whole story on one screen: one call a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphc.backends.base import Program, thread_count
from graphc.backends.c.build import build_library
from graphc.backends.c.emit import emit
from graphc.backends.c.mapping import BLOCKS
from graphc.backends.c.run import HostProgram
from graphc.backends.c.toolchain import find_toolchain
from graphc.backends.cuda.architecture import device_architecture, has_boxes
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.driver import Driver
from graphc.backends.cuda.emit import emit as emit_cuda
from graphc.backends.cuda.run import DeviceProgram
from graphc.errors import user_error
from graphc.ir.graph import Assignment, Graph, Node
from graphc.ir.loops import BlockSizes
from graphc.ir.routine import Routine
from graphc.ir.schedule import Schedule
from graphc.lower.grid import lower_to_grid
from graphc.lower.routines import lower
from graphc.ops.messages import brief, value_list
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import legal_precision
from graphc.schedule.plan import make_schedule
from graphc.tune.tune import Listener, check_budget, tune_schedule
from graphc.verify import check_graph, label_ranges

Progress = Callable[[int, int, str], None]
TARGETS = ("c", "cuda", "cuda-emu")


def compile_graph(
    outputs: Sequence[Node], *, assignments: Sequence[Assignment] = (), target: str = "c",
    name: str = "net", parameters: Mapping[str, Any] | None = None, arch: str | None = None,
    seed: int = 0, threads: int | None = None, exact: bool = False, precision: str = "fp32",
    tune: float | None = None, progress: Progress | None = None, tuning: Listener | None = None,
) -> Program:  # fmt: skip
    """Compile outputs into a callable program.

    Args:
        outputs: the nodes whose values a call returns.
        assignments: values that parameters and states take after each call.
        target: "c"; "cuda", an NVIDIA GPU; "cuda-emu", the same text on this processor, strict.
        name: of the folder of the sources.
        parameters: arrays by name to use (and update) in place, such as another program's
            ``parameters``. A device starts from copies of NumPy arrays, and shares its own.
        seed: of the initialisers.
        threads: OpenMP threads; by default one for each available core.
        exact: compute every convolution as the sum that its equation says; otherwise short
            windows are computed by tiles (Winograd), faster and with a rounding error of about
            1e-6 instead of 3e-7 (``graphc show --stage schedule``). Devices always do.
        precision: "bf16" or "fp16" stores what lies between kernels in 16 bits, by the rules of
            ``passes/precision.py``; inputs, parameters, states and outputs stay as declared.
            "tf32" lets a device read 10 bits of each factor of a float32 product.
        arch: "sm_90a", say: what kernels are for; by default the device, emulated "sm_80".
        tune: seconds to search for the fastest way to compute each contraction here, within the
            same limit on rounding errors. Choices are cached: the next search goes on where this
            one ended; 0 takes them and searches nothing. By default they are not looked at.
        progress: called with (files done, files in all, file name) while compiling.
        tuning: told what is tried and what is chosen.

    Raises:
        UserError: two parameters share a name, or an option has an illegal value.
        ToolchainError: no compiler, or it failed; no device.
    """
    _check_options(target, threads, tune, arch)
    source = Graph(value_list("compile", outputs), tuple(assignments))
    check_graph(source)
    graph = run_passes(source, legal_precision("compile", precision), copies=target != "c")
    limits, given = label_ranges(source), parameters or {}
    if target == "c":
        schedule, block = _host_schedule(graph, exact, tune, threads, tuning)
        routines = lower(schedule, block)
        emitted = emit(schedule, routines, block)
        library = build_library(name, emitted.files, progress=progress)
        return HostProgram(schedule, routines, emitted, library, limits, given, seed, threads)
    device, schedule = open_device(target), make_schedule(graph)
    routines = _device_routines(device, schedule, precision, arch)
    texts = emit_cuda(schedule, routines)
    module = device.load(texts.files, name, progress)
    return DeviceProgram(device, schedule, routines, texts, module, limits, given, seed)


def _device_routines(
    device: Driver, schedule: Schedule, precision: str, arch: str | None
) -> tuple[Routine, ...]:
    """What a device of this architecture, by default the one at hand, does best."""
    boxes = has_boxes(device_architecture(device.name, device.architecture, arch))
    return lower_to_grid(schedule, tf32=precision == "tf32", boxes=boxes)


def _check_options(target: str, threads: int | None, tune: float | None, arch: str | None) -> None:
    if not isinstance(target, str) or target not in TARGETS:
        expected = f"{', '.join(map(repr, TARGETS[:-1]))} or {TARGETS[-1]!r}"
        raise user_error(f"compile: unknown target {brief(target)}", f"expected {expected}")
    if arch is not None and target == "c":
        raise user_error(
            "compile: arch names a device, and the target is 'c'",
            "leave arch out, or give target='cuda' or 'cuda-emu'",
        )
    if tune is not None:
        check_budget(tune, target)
    thread_count(threads)


def _host_schedule(
    graph: Graph, exact: bool, tune: float | None, threads: int | None, tuning: Listener | None
) -> tuple[Schedule, BlockSizes]:
    """The schedule for this processor, tuned if that was asked for, and its register block."""
    toolchain = find_toolchain()
    block = BLOCKS[toolchain.simd]
    schedule = make_schedule(graph, block, exact=exact)
    if tune is not None:
        schedule = tune_schedule(
            schedule, block, toolchain, seconds=tune, threads=thread_count(threads), exact=exact,
            listener=tuning,
        )  # fmt: skip
    return schedule, block
