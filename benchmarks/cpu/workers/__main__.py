"""A worker: reads one JSON request a line, answers one JSON line, sleeps in between.

Requests: prepare (a case, and run it once), run (one timed repetition), save (the results of one
seed, for comparison), facts and memory. What libraries print goes to the terminal.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.cases import Case
from benchmarks.cpu.workers.prepared import Prepared, Settings, random_arrays


class Worker:
    """One peer and the case that it works on."""

    def __init__(self, settings: Settings, module: str) -> None:
        self.settings = settings
        self.peer = importlib.import_module(f"benchmarks.cpu.workers.{module}")
        self.prepared: Prepared | None = None
        self.case: Case | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks."""
        return getattr(self, f"do_{request.pop('do')}")(**request)

    def do_prepare(self, case: dict[str, Any], seed: int) -> dict[str, Any]:
        """Build the case and run it once; seconds of both."""
        self.prepared = None  # its memory goes before the next case takes its own
        self.case = Case(**case)
        start = time.perf_counter()
        self.prepared = self.peer.prepare(self.case, self.settings)
        build = time.perf_counter() - start
        self.prepared.load(random_arrays(self.case, seed))
        return {"build": build, "first": self._seconds()}

    def do_run(self, seed: int) -> dict[str, Any]:
        """Seconds of one repetition on fresh data, after one that wakes what slept meanwhile."""
        self.prepared.load(random_arrays(self.case, seed))
        self._seconds()
        return {"seconds": self._seconds()}

    def _seconds(self) -> float:
        if self.prepared.seconds is not None:
            return self.prepared.seconds()
        start = time.perf_counter()
        result = self.prepared.run()
        seconds = time.perf_counter() - start
        del result
        return seconds

    def do_save(self, seed: int, path: str) -> dict[str, Any]:
        """Write the results of one repetition."""
        self.prepared.load(random_arrays(self.case, seed))
        results = self.prepared.results(self.prepared.run())
        np.savez(path, *results)
        return {"saved": len(results)}

    def do_facts(self) -> dict[str, Any]:
        """What the peer tells about the case."""
        return {"facts": self.prepared.facts()}

    def do_memory(self) -> dict[str, Any]:
        """The largest resident set of this process so far, and its present one, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {
            key: int(fields[name].split()[0]) << 10
            for key, name in (("peak", "VmHWM"), ("now", "VmRSS"))
        }


def main() -> None:
    """Serve until the pipe ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers may reach the pipe
    told = json.loads(sys.argv[1])

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        worker = Worker(Settings(told["threads"], told["isa"], told["peer"]), told["module"])
    except ImportError as error:
        send({"failed": f"{error}"})
        return
    send({"ready": True})
    for line in sys.stdin:
        try:
            send(worker.answer(json.loads(line)))
        except Exception as error:  # whatever it is, the other peers go on
            reason = next(iter(str(error).splitlines()), "")
            send({"failed": f"{type(error).__name__}: {reason}"})


if __name__ == "__main__":
    main()
