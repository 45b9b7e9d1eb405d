"""The parts of the suite: each function measures one and returns its records."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cpu.cases import (
    Case,
    general_cases,
    layer_cases,
    memory_cases,
    vgg16_cases,
)
from benchmarks.cpu.machine import available_bytes
from benchmarks.cpu.measure import Plan, Team, measure, start
from benchmarks.cpu.peers import (
    CEILINGS,
    COMPILERS,
    LAYERS,
    MEMORY_USERS,
    NETWORKS,
    OPERATIONS,
    PEERS,
)
from benchmarks.cpu.worker import PeerFailed

Record = dict[str, Any]


def vgg16(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """Training and inference of VGG16; graphc takes part in every group that fits into memory."""
    cases = vgg16_cases(
        options.batch, image=options.image, head=options.head, classes=options.classes,
        width=options.width,
    )  # fmt: skip
    records = []
    for case in _matching(cases, options):
        parts = []
        for group in groups(_wanted(NETWORKS, options), case):
            with Team(plan) as team:
                parts.append(measure(case, group, team))
        records.append(merged(parts))
    return records


def groups(peers: Sequence[str], case: Case, memory: int | None = None) -> list[list[str]]:
    """Peers that are measured together: as many as fit into memory, graphc in each group."""
    memory = available_bytes() if memory is None else memory
    together = max(2, int(0.95 * memory) // network_bytes(case))
    others = [name for name in peers if name != "graphc"]
    ours = [name for name in peers if name == "graphc"]
    step = together - len(ours)
    return [ours + others[i : i + step] for i in range(0, len(others), step)] or [ours]


def network_bytes(case: Case) -> int:
    """A generous estimate of one peer's memory for VGG16."""
    o = case.options
    places, width = (o["image"] / 32) ** 2, o["width"]
    weights = 14.7e6 * width**2 + o["head"] * (512 * width * places + o["head"] + o["classes"])
    train = case.what == "train"
    maps = o["batch"] * (160e6 if train else 60e6) * width * places / 49
    return int((12 if train else 4) * weights + maps + 0.4e9)


def merged(parts: Sequence[Record]) -> Record:
    """One record of the groups of a case; a ratio is that of its own group."""
    first, *others = parts
    record = {**first, "groups": [part["seconds"] for part in parts]}
    for part in others:
        for key in ("ratio", "skipped", "facts", "error"):
            record[key] = {**record[key], **part[key]}
        record["seconds"] = {
            name: record["seconds"].get(name, []) + part["seconds"].get(name, [])
            for name in {**record["seconds"], **part["seconds"]}
        }
    record["median"] = {n: statistics.median(s) for n, s in record["seconds"].items() if s}
    return record


def layers(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """VGG16's convolutions one by one."""
    return _operations(layer_cases(), LAYERS, options, plan)


def general(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """Shapes outside of VGG16."""
    return _operations(general_cases(), OPERATIONS, options, plan)


def memory(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """Operations that wait for memory, beside a stream triad."""
    return _operations(memory_cases(), (*OPERATIONS, *CEILINGS), options, plan)


def _operations(
    cases: Sequence[Case], peers: Sequence[str], options: argparse.Namespace, plan: Plan
) -> list[Record]:
    """All cases, one after the other, in as many rounds as are wanted."""
    with Team(plan) as team:
        rounds = [
            [
                measure(case, _fitting(_wanted(peers, options), case), team)
                for case in _matching(cases, options)
            ]
            for _ in range(options.rounds)
        ]
    return rounds[0] if options.rounds == 1 else [pooled(r) for r in zip(*rounds, strict=True)]


def pooled(rounds: Sequence[Record]) -> Record:
    """One record of a case's rounds: medians of the repetitions of all, the largest error."""
    record = merged(rounds)
    ours = record["median"].get("graphc")
    others = {n: m for n, m in record["median"].items() if n != "graphc"}
    record["ratio"] = {n: m / ours for n, m in others.items()} if ours else {}
    record["error"] = {
        name: max(one["error"][name] for one in rounds if name in one["error"])
        for name in record["error"]
    }
    return record


def _fitting(peers: Sequence[str], case: Case) -> list[str]:
    """Arrays of two or three dimensions have one layout only."""
    one_layout = case.kind in ("dense", "product") or (
        case.kind == "conv" and len(case.options["image"]) == 1
    )
    return [name for name in peers if not (one_layout and name == "torch_channels_last")]


def compile_time(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """From the start of a process to its first training step, without and with a cache."""
    (case,) = vgg16_cases(
        [8], image=options.image, head=options.head, classes=options.classes, width=options.width
    )[:1]
    parts: dict[str, dict[str, list[dict[str, float]]]] = {"cold": {}, "warm": {}}
    skipped: dict[str, str] = {}
    for number in range(plan.repeat):
        for name in _wanted(COMPILERS, options):
            if name not in skipped:
                try:
                    _cold_and_warm(name, case, plan, parts)
                except PeerFailed as failure:
                    skipped[name] = str(failure)
        plan.say(f"  compile: round {number + 1} of {plan.repeat}")
    return [_compile_record(case, state, found, skipped) for state, found in parts.items()]


def _cold_and_warm(
    name: str, case: Case, plan: Plan, parts: dict[str, dict[str, list[dict[str, float]]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for state in ("cold", "warm"):
            with start(name, plan, variables=caches(folder)) as worker:
                taken = worker.prepare(case)
                taken = {"start": worker.start_seconds, **taken}
            parts[state].setdefault(name, []).append(taken)
            text = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in taken.items())
            plan.say(f"  compile, {state}: {PEERS[name].label}: {text}")


def caches(folder: str) -> dict[str, str]:
    """Variables that keep every peer's compiled code in a folder."""
    return {
        "GRAPHC_BUILD_DIR": os.path.join(folder, "graphc"),
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
        "JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _compile_record(
    case: Case, state: str, found: dict[str, list[dict[str, float]]], skipped: dict[str, str]
) -> Record:
    seconds = {name: [sum(parts.values()) for parts in taken] for name, taken in found.items()}
    return {
        "case": {"name": "training step, batch 8", "what": state, **case.options},
        "seconds": seconds,
        "median": {name: statistics.median(taken) for name, taken in seconds.items()},
        "parts": {
            name: {key: statistics.median(t[key] for t in taken) for key in taken[0]}
            for name, taken in found.items()
        },
        "skipped": skipped,
    }


def rss(options: argparse.Namespace, plan: Plan) -> list[Record]:
    """Peak memory of a process that trains for three steps, with the C library's own settings."""
    cases = vgg16_cases(
        options.batch, image=options.image, head=options.head, classes=options.classes,
        width=options.width,
    )  # fmt: skip
    records = []
    for case in _matching([case for case in cases if case.what == "train"], options):
        record: Record = {"case": {"name": case.name, "what": "train", **case.options}}
        record |= {"peak": {}, "imports": {}, "skipped": {}, "facts": {}}
        for name in _wanted(MEMORY_USERS, options):
            try:
                _peak(name, case, plan, record)
            except PeerFailed as failure:
                record["skipped"][name] = str(failure)
                plan.say(f"  {case.key}: {PEERS[name].label} skipped, {failure}")
        records.append(record)
    return records


def _peak(name: str, case: Case, plan: Plan, record: Record) -> None:
    with start(name, plan, reuse_memory=False) as worker:
        imports = worker.memory()["now"]
        worker.prepare(case)
        for seed in (1, 2):
            worker.run(seed)
        peak = worker.memory()["peak"]
        record["facts"][name] = worker.facts()
    record["imports"][name], record["peak"][name] = imports, peak
    plan.say(f"  {case.key}: {PEERS[name].label} {peak / 2**20:.0f} MiB")


def _wanted(peers: Sequence[str], options: argparse.Namespace) -> list[str]:
    return [name for name in peers if not options.peers or name in options.peers]


def _matching(cases: Sequence[Case], options: argparse.Namespace) -> list[Case]:
    return [case for case in cases if options.match in case.key]


SECTIONS: dict[str, Callable[[argparse.Namespace, Plan], list[Record]]] = {
    "vgg16": vgg16,
    "layers": layers,
    "general": general,
    "memory": memory,
    "compile": compile_time,
    "rss": rss,
}
