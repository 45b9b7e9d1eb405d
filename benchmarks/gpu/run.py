"""Measure graphc's CUDA training step of VGG16 against PyTorch on the card of this machine.

    python benchmarks/gpu/run.py                                   # bf16, 224 x 224, batch 128
    python benchmarks/gpu/run.py --precision tf32 --batch 64
    python benchmarks/gpu/run.py --target cuda-emu                 # without a GPU: small, untimed

First the ceilings of the card (copy, a large bf16 product), then every gradient against float64,
compute-sanitizer on small shapes, two runs of 20 steps compared byte by byte, replays of the graph,
and PyTorch's modes. Writes one JSON document and prints a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import graphc_step, torch_step
from benchmarks.gpu.graphc_step import Shape
from graphc.backends.cuda.compile import find_device_compiler
from graphc.backends.cuda.device import open_device
from graphc.errors import ToolchainError

ROOT = Path(__file__).resolve().parents[2]
SMALL = Shape(image=32, batch=4, width=0.125, head=32, classes=10)
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
STEPS = 20


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    options = parse(arguments)
    if options.once:
        graphc_step.compiled(SMALL, options.target, options.precision)(**SMALL.feeds())
        return
    document = measured(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(text(document))
    print(f"\nwritten to {options.out}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that this machine can measure; None where it cannot."""
    target, precision = options.target, options.precision
    on_gpu = target == "cuda"
    shape = Shape(options.image, options.batch, options.width, options.head, options.classes)
    small = SMALL if on_gpu else shape
    say("every gradient against float64")
    errors = graphc_step.errors(small, target, precision)
    say(f"two runs of {STEPS if on_gpu else 2} steps")
    same = graphc_step.repeatable(small, target, precision, STEPS if on_gpu else 2)
    say("the step and its kernels")
    ours = graphc_step.timed(shape, target, precision)
    theirs: dict[str, Any] = dict.fromkeys(torch_step.MODES)
    ceilings = None
    if on_gpu and torch_step.available():
        say("ceilings")
        ceilings = torch_step.ceilings()
        for mode in torch_step.MODES:
            say(f"PyTorch, {mode}")
            theirs[mode] = torch_step.timed(shape, precision, mode)
    return {
        "machine": machine(target), "command": sys.argv[1:], "shape": vars(shape),
        "precision": precision, "timed": on_gpu, "errors": errors,
        "tolerance": TOLERANCE[precision], "repeatable": same,
        "sanitizer": sanitized(precision) if on_gpu else None, "ceilings": ceilings,
        "graphc": ours, "torch": theirs,
    }  # fmt: skip


def machine(target: str) -> dict[str, str]:
    """What was measured on, and what compiled it."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    try:
        compiler = find_device_compiler().name
    except ToolchainError:
        compiler = "none"
    return {
        "device": open_device(target).name, "compiler": compiler, "commit": commit.stdout.strip(),
    }  # fmt: skip


def sanitized(precision: str) -> dict[str, bool] | None:
    """Whether each tool of compute-sanitizer finds nothing in one small step."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return None
    found = {}
    for tool in TOOLS:
        say(f"compute-sanitizer, {tool}")
        command = [
            program, "--tool", tool, "--error-exitcode", "1", sys.executable, __file__,
            "--once", "--precision", precision,
        ]  # fmt: skip
        found[tool] = subprocess.run(command, check=False, capture_output=True).returncode == 0
    return found


def text(document: dict[str, Any]) -> str:
    """The table: a line a kernel, then the sums; what no GPU measured says so."""
    timed, ceilings = document["timed"], document["ceilings"]
    lines = [f"{document['machine']['device']}, {document['precision']}, {document['shape']}", ""]
    lines.append(f"{'kernel':40} {'ms':>12} {'TFLOP/s':>12} {'GB/s':>12} {'% of ceiling':>14}")
    for kernel in document["graphc"]["kernels"]:
        lines.append(f"{kernel['name']:40} {_rates(kernel, ceilings, timed)}")
    batch = document["shape"]["batch"]
    lines += [
        "",
        f"{'graphc, one graph of launches':40} {_speed(document['graphc'], batch, timed)}",
    ]
    for mode, found in document["torch"].items():
        lines.append(f"{f'PyTorch, {mode}':40} {_speed(found, batch, timed)}")
    worst = max(document["errors"].values())
    within = "within" if worst <= document["tolerance"] else "BEYOND"
    lines += [
        "",
        f"gradients against float64: at most {worst:.1e}, {within} {document['tolerance']:.0e}",
        f"two runs end in the same bytes: {'yes' if document['repeatable'] else 'NO'}",
        f"compute-sanitizer: {_verdict(document['sanitizer'])}",
    ]
    return "\n".join(lines)


def _rates(kernel: dict[str, Any], ceilings: dict[str, float] | None, timed: bool) -> str:
    if not timed:
        return f"{'not measured':>12} {'-':>12} {'-':>12} {'-':>14}"
    seconds = kernel["seconds"]
    flops, moved = kernel["flops"] / seconds, kernel["bytes"] / seconds
    share = "-"
    if ceilings is not None:
        share = f"{100 * max(flops / ceilings['bf16'], moved / ceilings['copy']):.0f}"
    return f"{seconds * 1e3:12.3f} {flops / 1e12:12.1f} {moved / 1e9:12.0f} {share:>14}"


def _speed(found: dict[str, Any] | None, batch: int, timed: bool) -> str:
    if found is None or not timed:
        return f"{'not measured':>12}"
    seconds = found["seconds"] if isinstance(found["seconds"], float) else max(found["seconds"])
    memory = f"{found['bytes'] / 2**20:,.0f} MiB"
    return f"{seconds * 1e3:12.3f} ms  {batch / seconds:10.0f} images/s  {memory}"


def _verdict(found: dict[str, bool] | None) -> str:
    if found is None:
        return "not measured"
    return ", ".join(
        f"{tool} {'clean' if clean else 'FINDS ERRORS'}" for tool, clean in found.items()
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """What stands on the line; the emulator takes small shapes unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=("cuda", "cuda-emu"), default="cuda")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), default="bf16")
    for name, kind in (
        ("image", int),
        ("batch", int),
        ("width", float),
        ("head", int),
        ("classes", int),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help="one small step, for the sanitizer")
    options = parser.parse_args(arguments)
    large = Shape(image=224, batch=128, width=1.0, head=4096, classes=1000)
    default = large if options.target == "cuda" else SMALL
    for name, value in vars(default).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.out is None:
        name = f"gpu_{options.precision}.json" if options.target == "cuda" else "gpu_emulated.json"
        options.out = ROOT / "benchmarks" / "results" / name
    return options


def say(line: str) -> None:
    """A line of progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
