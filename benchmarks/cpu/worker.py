"""The parent's end of a worker: start it, ask it, give up on it in time."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from benchmarks.cpu.cases import Case
from benchmarks.cpu.machine import ROOT, worker_environment
from benchmarks.cpu.peers import PEERS


class PeerFailed(Exception):
    """A peer cannot take part; the text is the reason that is printed."""


class Worker:
    """One peer in a process of its own, asleep unless it is asked."""

    def __init__(
        self, name: str, *, isa: str, threads: int, patience: float, reuse_memory: bool = True,
        variables: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Start the process and wait until it has imported what it needs.

        Args:
            name: a key of ``PEERS``.
            isa: native or avx2.
            threads: of the peer.
            patience: seconds that one answer may take; five times that where it compiles.
            reuse_memory: keep freed memory in the process.
            variables: further environment variables.

        Raises:
            PeerFailed: something is not installed.
        """
        peer = PEERS[name]
        self.name, self.patience = name, patience
        told = {"threads": threads, "isa": isa, "peer": peer.settings, "module": peer.module}
        environment = worker_environment(isa, threads, reuse_memory=reuse_memory)
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu.workers", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **environment, **(variables or {})},
            text=True,
        )
        self._answer(5 * patience)
        self.start_seconds = time.perf_counter() - started

    def prepare(self, case: Case, seed: int = 0) -> dict[str, float]:
        """Build a case and run it once; seconds to ``build`` and of the ``first`` run."""
        return self._ask(5 * self.patience, do="prepare", case=dataclasses.asdict(case), seed=seed)

    def run(self, seed: int) -> float:
        """Seconds of one repetition."""
        return self._ask(self.patience, do="run", seed=seed)["seconds"]

    def save(self, seed: int, path: str) -> None:
        """Write the results of one repetition to an .npz file."""
        self._ask(5 * self.patience, do="save", seed=seed, path=path)

    def facts(self) -> dict[str, Any]:
        """What the peer tells about the case."""
        return self._ask(5 * self.patience, do="facts")["facts"]

    def memory(self) -> dict[str, int]:
        """``peak`` and ``now``: bytes of the process's resident set."""
        return self._ask(self.patience, do="memory")

    def close(self) -> None:
        """End the process: at once if it still works."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, patience: float, **request: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise PeerFailed(self._end()) from None
        return self._answer(patience)

    def _answer(self, patience: float) -> dict[str, Any]:
        readable, _, _ = select.select([self.process.stdout], [], [], patience)
        if not readable:
            self.process.kill()
            self.close()
            raise PeerFailed(f"no answer within {patience:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise PeerFailed(self._end())
        answer = json.loads(line)
        if "failed" in answer:
            raise PeerFailed(answer["failed"])
        return answer

    def _end(self) -> str:
        return f"its process ended with code {self.process.wait()}"
