"""The parts of the measurement; each runs in a process of its own, so that none ends the others."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu import graphc_step
from benchmarks.gpu.graphc_step import Shape
from benchmarks.gpu.kernel_checks import check_kernels
from graphc.backends.cuda.compile import find_device_compiler
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.libcuda import driver_version
from graphc.errors import ToolchainError

ROOT = Path(__file__).resolve().parents[2]
SMALL = Shape(image=32, batch=4, width=0.125, head=32, classes=10)
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Modes of PyTorch, what each is, and the seconds that it may take.
TORCH = {
    "eager": ("eager, channels last", 60),
    "eager_graph": ("eager, channels last, its own CUDA graph", 60),
    "compile": ("torch.compile, channels last", 150),
    "compile_graph": ("torch.compile, channels last, its own CUDA graph", 150),
    "contiguous": ("eager, contiguous", 60),
}
STEPS = 20
Options = argparse.Namespace
Save = Callable[[Any], None]


@dataclass(frozen=True)
class Part:
    """What a part does, in seconds at most; ``gpu`` if it needs one, whatever the target."""

    run: Callable[[Options, Save], None]
    what: str
    limit: float
    gpu: bool = False


def machine(options: Options, save: Save) -> None:
    """What is measured on, and what compiles for it."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    try:
        compiler = find_device_compiler().name
    except ToolchainError:
        compiler = "none"
    driver = driver_version()
    save({
        "device": open_device(options.target).name, "compiler": compiler,
        "driver": driver and "CUDA {}.{}".format(*driver), "torch": _version("torch"),
        "commit": commit.stdout.strip(), "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": sys.version.split()[0],
    })  # fmt: skip


def gradients(options: Options, save: Save) -> None:
    """Every gradient of a small step against the processor's."""
    save(graphc_step.gradient_errors(_checked(options), options.target, options.precision))


def step(options: Options, save: Save) -> None:
    """The step as one graph of launches."""
    save(graphc_step.timed(_shape(options), options.target, options.precision))


def kernels(options: Options, save: Save) -> None:
    """Each kernel on its own."""
    save(graphc_step.profiled(_shape(options), options.target, options.precision))


def checks(options: Options, save: Save) -> None:
    """Each kernel on fresh random inputs at its real size."""
    compiled = graphc_step.compiled(_shape(options), options.target, options.precision)
    program = graphc_step.device_program(compiled)
    records: list[dict[str, Any]] = []

    def done(record: dict[str, Any]) -> None:
        records.append(record)
        save({"of": len(program.kernels), "kernels": records})

    check_kernels(program, options.precision, time.time_ns() % 2**32, done)


def repeat(options: Options, save: Save) -> None:
    """Two runs of a small step, byte by byte."""
    steps = STEPS if options.target == "cuda" else 2
    save(graphc_step.repeatable(_checked(options), options.target, options.precision, steps))


def ceilings(_options: Options, save: Save) -> None:
    """What the card can do at most."""
    save(_torch_step().ceilings())


def torch_part(mode: str) -> Callable[[Options, Save], None]:
    """A mode of PyTorch."""

    def run(options: Options, save: Save) -> None:
        save(_torch_step().timed(_shape(options), options.precision, mode))

    return run


def sanitizer_part(tool: str) -> Callable[[Options, Save], None]:
    """A tool of compute-sanitizer on one small step."""

    def run(options: Options, save: Save) -> None:
        command = [
            "compute-sanitizer", "--tool", tool, "--error-exitcode", "1", sys.executable,
            str(ROOT / "benchmarks/gpu/run.py"), "--once", "--precision", options.precision,
            "--target", options.target,
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        save({"clean": done.returncode == 0, "said": (done.stdout + done.stderr)[-2000:]})

    return run


PARTS: dict[str, Part] = {
    "machine": Part(machine, "the machine", 60),
    "gradients": Part(gradients, "every gradient of a small step against the processor's", 90),
    "step": Part(step, "the step as one graph of launches", 120),
    "kernels": Part(kernels, "each kernel", 60),
    "ceilings": Part(ceilings, "ceilings: a copy, a large product", 45, gpu=True),
    **{
        f"torch_{mode}": Part(torch_part(mode), f"PyTorch, {what}", limit, gpu=True)
        for mode, (what, limit) in TORCH.items()
    },
    "repeat": Part(repeat, "two runs, byte by byte", 60),
    "checks": Part(checks, "every kernel on fresh inputs against float64", 150),
    **{
        f"sanitizer_{tool}": Part(sanitizer_part(tool), f"compute-sanitizer, {tool}", 90, gpu=True)
        for tool in SANITIZERS
    },
}  # fmt: skip


def run_part(name: str, options: Options, path: Path) -> None:
    """Run a part in this process; what it saves is in the file, whole, as soon as it is saved."""

    def save(found: Any) -> None:
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(found))
        os.replace(beside, path)

    PARTS[name].run(options, save)


def _torch_step() -> Any:
    """The module that imports PyTorch, which takes seconds that other parts do not spend."""
    return importlib.import_module("benchmarks.gpu.torch_step")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shape(options: Options) -> Shape:
    return Shape(options.image, options.batch, options.width, options.head, options.classes)


def _checked(options: Options) -> Shape:
    """Small on a GPU, where float64 is computed by the processor beside it."""
    return SMALL if options.target == "cuda" else _shape(options)
