"""Measure graphc's CUDA training step of VGG16 against PyTorch on the card of this machine.

    python benchmarks/gpu/run.py                        # bf16, 224 x 224, batch 128
    python benchmarks/gpu/run.py --quick                # the same within 8 minutes
    python benchmarks/gpu/run.py --only step,kernels --precision tf32 --batch 64
    python benchmarks/gpu/run.py --target cuda-emu      # without a GPU: small, untimed

Each part runs in a process of its own. One that fails, or takes longer than it may, leaves what it
found so far and a note, and the next one starts. The document is written after every part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import graphc_step, report
from benchmarks.gpu.graphc_step import Shape
from benchmarks.gpu.parts import PARTS, ROOT, SMALL, run_part

PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
QUICK_SECONDS = 480.0
_SIZES = {"image": int, "batch": int, "width": float, "head": int, "classes": int}
_TAIL = 2000  # characters of what a part that failed said last


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    options = parse(arguments)
    if options.once:
        graphc_step.compiled(SMALL, options.target, options.precision)(**SMALL.feeds())
    elif options.part:
        run_part(options.part, options, options.out)
    else:
        print(report.text(measured(options)))
        print(f"\nwritten to {options.out}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The document of all parts, which is on disk after each of them."""
    started = time.monotonic()
    on_gpu = options.target == "cuda"
    document: dict[str, Any] = {
        "command": sys.argv[1:], "precision": options.precision, "target": options.target,
        "timed": on_gpu, "shape": {name: getattr(options, name) for name in _SIZES}, "parts": {},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        part = PARTS[name]
        left = options.seconds - (time.monotonic() - started)
        if part.gpu and not on_gpu:
            record: dict[str, Any] = {"status": "needs a GPU", "result": None, "seconds": 0.0}
        elif left <= 0:
            record = {"status": "no time was left", "result": None, "seconds": 0.0}
        else:
            say(f"{part.what} (at most {min(part.limit, left):.0f} s)")
            record = isolated(name, options, min(part.limit if options.quick else left, left))
        document["parts"][name] = record
        document["seconds"] = time.monotonic() - started
        write(options.out, document)
    return document


def isolated(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A part in a process of its own: what it saved, whether it ended, and what it said if not."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="graphc-gpu-") as folder:
        saved, said = Path(folder, "result.json"), Path(folder, "said")
        words = [
            sys.executable, __file__, "--part", name, "--target", options.target, "--precision",
            options.precision, "--out", str(saved),
        ]  # fmt: skip
        words += [word for size in _SIZES for word in (f"--{size}", str(getattr(options, size)))]
        with said.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        try:
            code = process.wait(limit if limit < threading.TIMEOUT_MAX else None)
            status = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # its compilers and tools too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        result = json.loads(saved.read_text()) if saved.exists() else None
        record = {"status": status, "result": result, "seconds": time.monotonic() - started}
        if status != "done":
            record["said"] = said.read_text(errors="replace")[-_TAIL:]
            say(f"{name}: {status}\n{record['said']}")
    return record


def write(path: Path, document: dict[str, Any]) -> None:
    """The whole document in one step."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(beside, path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """What stands on the line; the emulator takes small shapes unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=("cuda", "cuda-emu"), default="cuda")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    for name, kind in _SIZES.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--only", type=_parts, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="limits a part, 8 minutes in all")
    parser.add_argument("--seconds", type=float, help="start no part after so many")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    large = Shape(image=224, batch=128, width=1.0, head=4096, classes=1000)
    default = large if options.target == "cuda" else SMALL
    for name, value in vars(default).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else float("inf")
    if options.out is None:
        name = f"gpu_{options.precision}.json" if options.target == "cuda" else "gpu_emulated.json"
        options.out = ROOT / "benchmarks" / "results" / name
    return options


def _parts(text: str) -> list[str]:
    """Names of parts, in the order in which they run."""
    asked = text.split(",")
    for name in asked:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PARTS)}")
    return [name for name in PARTS if name in asked]


def say(line: str) -> None:
    """A line of progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
