"""Programs on the emulator against the oracle, shared by the tests of generated CUDA."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.kernel_checks import check_kernels
from graphc.backends.base import Program
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.disassemble import INSTALL_HINT, instructions
from graphc.backends.cuda.emit import Emitted, emit
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.run import DeviceProgram
from graphc.backends.templating import template_folder
from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.ir.graph import Assignment, Graph, Node, topological
from graphc.lower.grid import lower_to_grid
from graphc.ops import leaves
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.plan import make_schedule
from tests.compiled import TOLERANCE, assert_close, with_gradients
from tests.op_cases import OpCase

SEEDS = (1, 2, 3)
ROUGH = {"tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}
INCLUDE = template_folder() / "cuda"
Feeds = dict[str, np.ndarray]


def emulator() -> Emulator:
    """The device of the target cuda-emu."""
    device = open_device("cuda-emu")
    assert isinstance(device, Emulator)
    return device


def check_on_emulator(
    outputs: Sequence[Node], feeds: Feeds, names: Sequence[str] = (), *, precision: str = "fp32",
    arch: str | None = None,
) -> DeviceProgram:  # fmt: skip
    """Run in every order of threads; the results are the oracle's, and the same bytes each time.

    The oracle computes in float64, or as 16 bits round.
    """
    program = compile_graph(outputs, target="cuda-emu", precision=precision, arch=arch)
    assert isinstance(program, DeviceProgram)
    known = {node.label for node in program.inputs}
    fed = {name: array for name, array in feeds.items() if name in known}
    halves = any(node.dtype.is_half for node in topological(outputs))
    wanted = evaluate(outputs, feeds, float_dtype=None if halves else "float64")
    first: list[np.ndarray] = []
    for seed in SEEDS:
        emulator().seed = seed
        got = program(**fed)
        first = first or got
        for number, (ours, before, want, node) in enumerate(
            zip(got, first, wanted, outputs, strict=True)
        ):
            what = names[number] if names else f"output {number}, {node!r}"
            assert ours.dtype == node.dtype.numpy, what
            assert ours.tobytes() == before.tobytes(), f"{what}: not the same in every order"
            tolerance = ROUGH.get(precision, TOLERANCE.get(node.dtype.value, np.nan))
            assert_close(ours, want, tolerance, what)
    return program


def wrong_kernels(program: Program, precision: str) -> dict[str, list[str]]:
    """What the benchmark on a GPU finds: each kernel's faults on fresh inputs, by its name."""
    assert isinstance(program, DeviceProgram)
    records: list[dict[str, Any]] = []
    check_kernels(program, precision, 5, records.append)
    assert records
    return {record["name"]: record["wrong"] for record in records if record["wrong"]}


def case_graph(
    cases: Sequence[OpCase], dtype: str, generator: np.random.Generator
) -> tuple[list[Node], Feeds, list[str]]:
    """Outputs and gradients of many cases, whose inputs are named after them, with feeds, names."""
    outputs: list[Node] = []
    feeds: Feeds = {}
    names: list[str] = []
    for case in cases:
        arrays = case.sample(generator, dtype)
        inputs = [
            leaves.input(f"{case.name} {n}", array.shape, str(array.dtype))
            for n, array in enumerate(arrays)
        ]
        out = case.build(*inputs)
        found = with_gradients(out, inputs, generator) if case.differentiable else [out]
        outputs += found
        names += [f"{case.name}, {dtype}, output {n}" for n in range(len(found))]
        feeds |= {node.label: array for node, array in zip(inputs, arrays, strict=True)}
    return outputs, feeds, names


def generated(
    outputs: Sequence[Node], assignments: Sequence[Assignment] = (), *, precision: str = "fp32",
    boxes: bool = False,
) -> Emitted:  # fmt: skip
    """The CUDA sources of a graph; nothing is compiled."""
    source = Graph(tuple(outputs), tuple(assignments))
    graph = run_passes(source, PRECISIONS[precision], copies=True)
    schedule = make_schedule(graph)
    return emit(schedule, lower_to_grid(schedule, tf32=precision == "tf32", boxes=boxes))


def compile_with_nvcc(emitted: Emitted, architecture: str, folder: Path) -> str:
    """All kernels in one run of nvcc, which must not warn; what it says of their resources."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on the PATH: install a CUDA toolkit to compile for a device")
    for file in emitted.files:
        (folder / file.name).write_text(file.text)
    whole = folder / "whole.cu"
    whole.write_text("".join(f'#include "{file.name}"\n' for file in emitted.files))
    done = subprocess.run(
        [nvcc, f"-arch={architecture}", "-cubin", "-std=c++17", "-Werror=all-warnings", "-I",
         str(INCLUDE), "-Xptxas=-v,-warn-spills", str(whole), "-o", str(folder / "whole.cubin")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    return done.stderr


def all_instructions(cubins: Sequence[Path], architecture: str) -> Counter[str]:
    """How often each machine instruction occurs."""
    found = instructions(cubins, architecture)
    if found is None:
        pytest.skip(f"there is no nvdisasm: {INSTALL_HINT}")
    return sum(found.values(), Counter())
