"""Measure graphc on the CPU against PyTorch, torch.compile and JAX, in turns; medians.

    python benchmarks/cpu/run.py                        # everything: some hours
    python benchmarks/cpu/run.py --only layers,memory   # parts of it
    python benchmarks/cpu/run.py --only vgg16 --batch 8 --peers graphc,torch_channels_last
    python benchmarks/cpu/run.py --show benchmarks/results/cpu.json   # tables and pictures again

Writes one JSON document and one picture a section, and prints tables. Every peer runs alone in a
process of its own on fresh random data; while one works the others sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.cpu import machine, pictures, report
from benchmarks.cpu.measure import Plan
from benchmarks.cpu.peers import PEERS
from benchmarks.cpu.sections import SECTIONS

RESULTS = machine.ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, or show what was measured."""
    options = parse(arguments)
    if options.show:
        document = json.loads(options.show.read_text())
        print(report.text(document))
        folder = options.show.parent
    else:
        folder, path = options.out, options.out / f"{stem(options)}.json"
        document = measured(options, path)
        print("\n" + report.text(document))
        print(f"\nwritten to {path}")
    for line in pictures.draw(document, folder):
        print(line)


def measured(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """The document; written after every section, so that an interrupted run keeps the others."""
    plan = Plan(
        isa=options.isa, threads=options.threads, repeat=options.repeat, warmup=options.warmup,
        limit=options.limit, check=options.check, say=say,
    )  # fmt: skip
    document: dict[str, Any] = {
        "machine": machine.describe(options.isa, options.threads),
        "command": sys.argv[1:],
        "repeat": options.repeat,
        "warmup": options.warmup,
        "rounds": options.rounds,
        "sections": {},
        "minutes": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        say(f"{name}:")
        started = time.monotonic()
        document["sections"][name] = SECTIONS[name](options, plan)
        document["minutes"][name] = round((time.monotonic() - started) / 60, 2)
        path.write_text(json.dumps(document, indent=1) + "\n")
    return document


def say(line: str) -> None:
    """A line of progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def stem(options: argparse.Namespace) -> str:
    """The name of the results: cpu, with the instruction set and the sections if not all."""
    parts = ["cpu", *(["avx2"] if options.isa == "avx2" else [])]
    if len(options.only) < len(SECTIONS):
        parts += options.only
    return "_".join(parts)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; a section or peer that does not exist ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", type=_names(SECTIONS), default=list(SECTIONS), help=f"of {','.join(SECTIONS)}")
    add("--peers", type=_names(PEERS), default=[], help=f"of {','.join(PEERS)}")
    add("--match", default="", help="only cases whose name holds this text")
    add("--batch", type=_sizes, default=[1, 8, 32], help="of VGG16 (vgg16, rss), such as 1,8,32")
    add("--repeat", type=_positive, default=5, help="repetitions that count")
    add("--warmup", type=_positive, default=2, help="repetitions before them")
    add("--rounds", type=_positive, default=1, help="times over all layers, shapes and maps")
    add("--limit", type=float, default=120.0, help="seconds a repetition may take")
    add("--threads", type=_positive, default=len(os.sched_getaffinity(0)))
    add("--isa", choices=("native", "avx2"), default="native")
    add("--no-check", dest="check", action="store_false", help="no comparison with float64")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--show", type=Path, metavar="JSON", help="measure nothing, show this document")
    add("--image", type=_positive, default=224, help="height and width for VGG16")
    add("--head", type=_positive, default=4096, help="width of VGG16's dense layers")
    add("--classes", type=_positive, default=1000)
    add("--width", type=float, default=1.0, help="factor of VGG16's channels")
    return parser.parse_args(arguments)


def _names(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return names


def _sizes(text: str) -> list[int]:
    return [_positive(word) for word in text.split(",")]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


if __name__ == "__main__":
    main()
