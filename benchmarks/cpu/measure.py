"""Repeat a case on all peers in turns: one works, the others sleep; medians of the raw times."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.cases import Case, flops, least_bytes
from benchmarks.cpu.machine import processor_flags
from benchmarks.cpu.peers import CEILINGS, PEERS
from benchmarks.cpu.worker import PeerFailed, Worker

PAUSE = 0.02  # seconds between two peers: threads that wait for work stop spinning
CHECK_SEED = 1_000_000
LARGE_ERROR = 1e-4  # relative L2; float32 stays far below


@dataclass(frozen=True)
class Plan:
    """How a run measures.

    Attributes:
        isa: native or avx2.
        threads: of every peer.
        repeat: repetitions that count.
        warmup: repetitions before them, at least 1.
        limit: seconds that one repetition may take.
        check: compare results with float64.
        say: takes every line of progress.
    """

    isa: str = "native"
    threads: int = 1
    repeat: int = 5
    warmup: int = 2
    limit: float = 120.0
    check: bool = True
    say: Callable[[str], None] = print


@dataclass
class Team:
    """The workers of some peers, kept from case to case; who fails to start stays out."""

    plan: Plan
    workers: dict[str, Worker] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def call(self, names: Iterable[str]) -> dict[str, str]:
        """Have these peers running; the reasons of those that cannot."""
        for name in names:
            if name in self.absent or self._lives(name):
                continue
            try:
                self.workers[name] = start(name, self.plan)
            except PeerFailed as failure:
                self.absent[name] = str(failure)
                self.plan.say(f"  {PEERS[name].label}: skipped, {failure}")
        return {name: self.absent[name] for name in names if name in self.absent}

    def _lives(self, name: str) -> bool:
        return name in self.workers and self.workers[name].process.poll() is None


def start(name: str, plan: Plan, **options: Any) -> Worker:
    """A worker for a peer; PeerFailed where the processor or a package does not allow it."""
    needs = PEERS[name].needs
    if needs and (plan.isa == "avx2" or needs not in processor_flags()):
        raise PeerFailed(f"needs {needs}")
    return Worker(name, isa=plan.isa, threads=plan.threads, patience=plan.limit, **options)


def measure(case: Case, peers: Sequence[str], team: Team) -> dict[str, Any]:
    """All peers on one case in turns.

    Returns:
        A record of plain values: ``case``, ``flops``, ``bytes``, ``seconds`` (all repetitions by
        peer), ``median``, ``ratio`` (each peer's median by graphc's), ``error``, ``skipped``
        (reasons by peer) and ``facts``.
    """
    plan = team.plan
    skipped = team.call(peers)
    seconds = {name: [] for name in peers if name not in skipped}

    def guarded(name: str, action: Callable[[Worker], Any]) -> Any:
        try:
            return action(team.workers[name])
        except PeerFailed as failure:
            skipped[name] = str(failure)
            seconds.pop(name, None)
            plan.say(f"  {case.key}: {PEERS[name].label} skipped, {failure}")
            return None

    for name in list(seconds):
        guarded(name, lambda worker: worker.prepare(case))
    error = relative_errors(case, team, list(seconds), guarded) if plan.check else {}
    for number in range(1, plan.warmup + plan.repeat):
        for name in list(seconds):
            time.sleep(PAUSE)
            taken = guarded(name, lambda worker, seed=number: worker.run(seed))
            if taken is not None and number >= plan.warmup:
                seconds[name].append(taken)
    facts = {name: guarded(name, lambda worker: worker.facts()) for name in list(seconds)}
    record = summary(case, seconds, skipped, error, {n: f for n, f in facts.items() if f})
    plan.say(f"  {case.key}: {progress(record)}")
    return record


def summary(
    case: Case, seconds: dict[str, list[float]], skipped: dict[str, str],
    error: dict[str, float], facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The record of a case."""
    median = {name: statistics.median(taken) for name, taken in seconds.items() if taken}
    ours = median.get("graphc")
    return {
        "case": {"name": case.name, "kind": case.kind, "what": case.what, **case.options},
        "times": case.times,
        "flops": flops(case),
        "bytes": least_bytes(case),
        "seconds": seconds,
        "median": median,
        "ratio": {n: m / ours for n, m in median.items() if n != "graphc"} if ours else {},
        "error": error,
        "skipped": skipped,
        "facts": facts,
    }


def progress(record: dict[str, Any]) -> str:
    """The medians in one line, with errors that rounding does not explain."""
    parts = [f"{PEERS[n].label} {m * 1e3:.2f} ms" for n, m in record["median"].items()]
    large = {name: error for name, error in record["error"].items() if not error < LARGE_ERROR}
    parts += [f"WRONG: {PEERS[n].label} is off by {error:.1e}" for n, error in large.items()]
    return ", ".join(parts) or "nothing was measured"


def relative_errors(
    case: Case, team: Team, peers: Sequence[str], guarded: Callable[..., Any]
) -> dict[str, float]:
    """Relative L2 distance of each peer's results from float64's, the largest of a case."""
    if case.kind in ("vgg16", "sgd") or team.call(["reference"]):
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            team.workers["reference"].prepare(case, CHECK_SEED)
            expected = _saved(team.workers["reference"], folder)
        except PeerFailed as failure:
            team.plan.say(f"  {case.key}: not compared with float64, {failure}")
            return {}
        for name in peers:
            if name in CEILINGS:
                continue
            values = guarded(name, lambda worker: _saved(worker, folder))
            if values is not None:
                found[name] = max(map(distance, values, expected))
    return found


def _saved(worker: Worker, folder: str) -> list[np.ndarray]:
    path = Path(folder) / "results.npz"
    worker.save(CHECK_SEED, str(path))
    with np.load(path) as arrays:
        return list(arrays.values())


def distance(value: np.ndarray, expected: np.ndarray) -> float:
    """|value - expected| / |expected| in the Euclidean norm."""
    if value.shape != expected.shape:
        raise ValueError(f"the results have shapes {value.shape} and {expected.shape}")
    return float(np.linalg.norm((value - expected).ravel()) / np.linalg.norm(expected.ravel()))
