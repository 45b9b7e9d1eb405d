"""Every op and its gradients as CUDA on the emulator, in several orders of threads."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from graphc.ir.graph import Assignment
from graphc.ops import elementwise, leaves, linear, losses, pooling, reductions, shape
from tests.cuda.programs import case_graph, check_on_emulator, compile_with_nvcc, generated
from tests.op_cases import CASES as PLAIN_CASES
from tests.op_cases import OpCase
from tests.op_cases_nn import NN_CASES

BATCH = 40  # cases in one program
CASES = [*PLAIN_CASES, *NN_CASES]


def batches(items: Sequence, size: int = BATCH) -> list[list]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def first_name(value: object) -> str:
    return f"{value[0].name}-and-on" if isinstance(value, list) else str(value)


SLOW = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float64", "float16")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", *SLOW])
@pytest.mark.parametrize("cases", batches(CASES), ids=first_name)
def test_every_op_and_gradient(
    cases: list[OpCase], dtype: str, seeded: np.random.Generator
) -> None:
    check_on_emulator(*case_graph(cases, dtype, seeded))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("cases", batches(CASES), ids=first_name)
def test_nvcc_compiles_every_kernel_without_warning_spill_or_stack(
    cases: list[OpCase], architecture: str, seeded: np.random.Generator, tmp_path: Path
) -> None:
    emitted = generated(case_graph(cases, "float32", seeded)[0])
    said = compile_with_nvcc(emitted, architecture, tmp_path)
    assert len(re.findall(r"Used \d+ registers", said)) == len(emitted.files)
    frames = dict(re.findall(r"properties for (\w+)\s+(\d+) bytes stack frame", said))
    assert frames.keys() == {Path(file.name).stem for file in emitted.files}
    # The device library's sine and cosine reduce large arguments in 28 bytes of local memory.
    reducing = {Path(f.name).stem for f in emitted.files if re.search(r"\b(sin|cos)f\(", f.text)}
    assert {name for name, size in frames.items() if size != "0"} <= reducing
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}


def test_a_thread_moves_neighbours_as_one(seeded: np.random.Generator) -> None:
    x, y = (leaves.input(name, (40, 130, 4), "float32") for name in "xy")
    scale = leaves.input("s", (130, 1), "float32")
    marks = leaves.input("m", (40, 130, 4), "uint8")
    outputs = [
        elementwise.exp(x) * scale + y,
        x * 2.0 - shape.transpose(y, (0, 1, 2)),
        elementwise.add(marks, marks),
    ]
    feeds = {
        "x": seeded.normal(size=x.shape).astype("float32"),
        "y": seeded.normal(size=x.shape).astype("float32"),
        "s": seeded.normal(size=scale.shape).astype("float32"),
        "m": seeded.integers(0, 99, size=x.shape).astype("uint8"),
    }
    program = check_on_emulator(outputs, feeds)
    sources = [kernel.source for kernel in program.kernels.values()]
    assert any("gc_load_lanes<4>(x" in text and "gc_store_lanes(" in text for text in sources)
    assert any("gc_load_lanes<16>(m" in text for text in sources)


@pytest.mark.parametrize(
    ("rows", "columns", "axis", "team"),
    [
        (7, 1000, 1, "32 threads share the 1000 terms of an output, neighbours in memory"),
        (3, 5000, 1, "256 threads share the 5000 terms of an output, neighbours in memory"),
        (500, 40, 0, "8 threads share the 500 terms of an output, 32 outputs side by side"),
        (2000, 7, 0, "32 threads share the 2000 terms of an output, 32 outputs side by side"),
        (40, 3, 0, "a thread for each output"),
    ],
)
def test_teams_share_long_windows(
    rows: int, columns: int, axis: int, team: str, seeded: np.random.Generator
) -> None:
    x = leaves.input("x", (rows, columns), "float32")
    y = leaves.input("y", (rows, columns), "float32")
    outputs = [
        reductions.sum(x, axis), reductions.mean(x * y, axis), reductions.max(x, axis),
        reductions.argmax(x, axis), reductions.min(y, axis), reductions.argmin(y, axis),
        losses.softmax(x, axis), reductions.prod(1.0 + 0.001 * x, axis),
    ]  # fmt: skip
    feeds = {name: seeded.normal(size=x.shape).astype("float32") for name in "xy"}
    feeds["y"] = np.round(feeds["y"] * 4)  # ties
    program = check_on_emulator(outputs, feeds)
    assert any(f"// {team}." in kernel.source for kernel in program.kernels.values())


def test_a_team_finds_the_first_of_equals_and_the_first_that_is_no_number(
    seeded: np.random.Generator,
) -> None:
    value = seeded.integers(0, 5, size=(6, 400)).astype("float64")
    value[1, [200, 37, 399]] = np.nan
    value[2] = -np.inf
    value[3] = np.inf
    value[4, 1:] = np.nan
    x = leaves.input("x", value.shape, "float64")
    rules = (reductions.max, reductions.min, reductions.argmax, reductions.argmin)
    program = check_on_emulator([rule(x, 1) for rule in rules], {"x": value})
    assert any("32 threads share" in kernel.source for kernel in program.kernels.values())


def test_integers_and_long_sums(seeded: np.random.Generator) -> None:
    a, b = leaves.input("a", (9, 200), "int32"), leaves.input("b", (200, 33), "int32")
    x = leaves.input("x", (100_003,), "float32")
    arrays = {node.label: seeded.integers(0, 9, size=node.shape).astype("int32") for node in (a, b)}
    arrays["x"] = seeded.normal(size=x.shape).astype("float32")
    outputs = [linear.matmul(a, b), reductions.sum(x * x), reductions.max(a), reductions.argmax(a)]
    program = check_on_emulator(outputs, arrays)
    assert any("partial" in name for name in program.kernels)


def test_places_beyond_32_bits_are_counted_in_64() -> None:
    x = leaves.input("x", (70_000, 40_000), "float32")
    [file] = generated([pooling.max_pool1d(shape.reshape(x, (1, 70_000, 40_000)), 2)]).files
    assert "const gc_int64 ci = (gc_int64)blockIdx.x * 256 + threadIdx.x;" in file.text
    [small] = generated([x[:4, :4] * 2.0]).files
    assert "gc_int64" in small.text  # its operand is as large


def test_the_same_graph_gives_the_same_bytes(seeded: np.random.Generator) -> None:
    outputs = case_graph(CASES[:20], "float32", seeded)[0]
    assert generated(outputs) == generated(outputs)


def test_an_update_is_one_kernel_that_overwrites_its_parameter() -> None:
    w = leaves.parameter("w", (64, 128))
    [file] = generated([], [Assignment(w, w * 0.5)]).files
    assert file.name == "w_update.cu"
    assert "w_update(float *__restrict__ w)" in file.text
