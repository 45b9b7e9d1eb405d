"""Compiled programs against the oracle, shared by the tests of the C backend."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphc.autodiff.backward import gradients
from graphc.backends.base import Program
from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.ir.graph import Node, topological
from graphc.ir.types import holds_floats
from graphc.ops.elementwise import multiply
from graphc.ops.leaves import constant
from graphc.ops.reductions import sum as total

ROOT = Path(__file__).parent.parent
TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 distance; infinities and NaN must be in the same places."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    error = np.linalg.norm(got[finite] - want[finite])
    return float(error / max(np.linalg.norm(want[finite]), 1e-30)) if error else 0.0


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float, what: str = "") -> None:
    """Exactly equal where nothing is floating, else within a relative distance."""
    if not holds_floats(got.dtype):
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    found = distance(got, want)
    assert found <= tolerance, f"{what}: relative distance {found:.3g} exceeds {tolerance}"


def with_gradients(out: Node, inputs: Sequence[Node], generator: np.random.Generator) -> list[Node]:
    """The output and the gradient of a fixed weighted sum of it for every floating input."""
    weights = constant(generator.normal(size=out.shape), out.dtype)
    floating = [node for node in inputs if node.dtype.is_float]
    return [out, *gradients(total(multiply(out, weights)), floating)]


def check(
    outputs: Sequence[Node], feeds: Mapping[str, np.ndarray], names: Sequence[str] = ()
) -> Program:
    """Compile, run once, compare every output with the oracle: in float64, or as 16 bits round."""
    program = compile_graph(outputs)
    known = {node.label for node in program.inputs}
    got = program(**{name: array for name, array in feeds.items() if name in known})
    halves = any(node.dtype.is_half for node in topological(outputs))
    wanted = evaluate(outputs, feeds, float_dtype=None if halves else "float64")
    for number, (ours, want, node) in enumerate(zip(got, wanted, outputs, strict=True)):
        what = names[number] if names else f"output {number}, {node!r}"
        assert ours.shape == node.shape, what
        assert ours.dtype == node.dtype.numpy, what
        assert_close(ours, want, TOLERANCE.get(node.dtype.value, math.nan), what)
    return program


def run_python(code: str, *, timeout: float = 120, **environment: str) -> str:
    """Standard output of a new Python that runs the code from the top of the repository."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, timeout=timeout,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
