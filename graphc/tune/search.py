"""The search itself: candidates in rounds, timed in turns with the default, within a budget.

It compiles and runs nothing: a timer does, and a clock says when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, Protocol, TypeVar

MARGIN = 0.97  # of the best time so far that a variant must stay below to replace it
HOPELESS = 1.5  # times the best so far after which a variant is dropped
LEAST_RUNS = 3
_RUNS = ((0.03, LEAST_RUNS), (0.005, 5), (0.001, 9), (0.0, 15))  # (least seconds, timed runs)


class Described(Hashable, Protocol):
    """A candidate, which says what it is."""

    @property
    def text(self) -> str:
        """For people."""


C = TypeVar("C", bound=Described)
T = TypeVar("T", bound=Described, contravariant=True)


class Timer(Protocol[T]):
    """Compiles candidates, as many at a time as ``batch``, and runs them."""

    batch: int

    def prepare(self, candidates: Sequence[T]) -> None:
        """Compile what is not compiled yet."""

    def run(self, candidate: T) -> float:
        """Seconds of one run."""


@dataclass(frozen=True)
class Trial:
    """A variant of a kernel against the default in the same turns; times in seconds.

    ``runs`` were timed, a single one of a variant without hope; ``elapsed`` of ``budget`` seconds
    have passed.
    """

    kernel: str
    variant: str
    seconds: float
    default_seconds: float
    runs: int
    elapsed: float
    budget: float


Listener = Callable[[Trial], None]


@dataclass
class Budget:
    """Seconds from its making on, or until an interrupt."""

    seconds: float
    clock: Callable[[], float]
    interrupted: bool = False

    def __post_init__(self) -> None:
        """Start the clock."""
        self._started = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self.clock() - self._started

    @property
    def over(self) -> bool:
        """Whether nothing more may be begun."""
        return self.interrupted or self.elapsed >= self.seconds


@dataclass
class Finding(Generic[C]):
    """The best candidate so far; the times are of the turns in which it was last compared."""

    default: C
    best: C
    seconds: float = math.nan
    default_seconds: float = math.nan
    finished: bool = False
    tried: int = 0

    @property
    def worth_keeping(self) -> bool:
        """Whether all was tried, or something better found before the end."""
        return self.finished or self.best is not self.default


def search(
    kernel: str, default: C, rounds: Sequence[Callable[[C], Sequence[C]]], timer: Timer[C],
    budget: Budget, listener: Listener,
) -> Finding[C]:  # fmt: skip
    """Let the candidates of each round compete with the best so far and with the default.

    Args:
        kernel: its name, for the listener.
        default: what is used if nothing is faster.
        rounds: each gives candidates to try next to the best so far.
        timer: compiles and runs.
        budget: checked before everything that takes time; an interrupt ends it.
        listener: told about each candidate.
    """
    found = Finding(default, default)
    try:
        for propose in rounds:
            waiting = list(propose(found.best))
            while waiting:
                if budget.over:
                    return found
                batch, waiting = waiting[: timer.batch], waiting[timer.batch :]
                if not _compete(kernel, batch, found, timer, budget, listener):
                    return found
    except KeyboardInterrupt:
        budget.interrupted = True
        return found
    found.finished = True
    return found


def _compete(
    kernel: str, batch: Sequence[C], found: Finding[C], timer: Timer[C], budget: Budget,
    listener: Listener,
) -> bool:  # fmt: skip
    """Time a batch and keep its winner; False if the budget ended before all were timed."""
    known = list(dict.fromkeys([found.default, found.best]))
    timer.prepare([*known, *batch])
    times: dict[C, list[float]] = {c: [] for c in (*known, *batch)}
    interrupted = False
    try:
        whole = _take_turns(known, times, timer, budget)
    except KeyboardInterrupt:
        whole, interrupted = False, True
    for candidate in batch:
        if times[candidate]:
            found.tried += 1
            runs, before = times[candidate], median(times[found.default])
            listener(Trial(
                kernel, candidate.text, median(runs), before, len(runs), budget.elapsed,
                budget.seconds,
            ))  # fmt: skip
    _judge(found, times)
    if interrupted:
        raise KeyboardInterrupt
    return whole


def _judge(found: Finding[C], times: Mapping[C, Sequence[float]]) -> None:
    """Replace the best so far by the fastest that was clearly faster in the same turns.

    Its median must be, and its fastest run, which other work on the machine disturbs less.
    """
    middle = {c: median(runs) for c, runs in times.items() if len(runs) >= LEAST_RUNS}
    if found.best not in middle:
        return
    found.default_seconds, found.seconds = middle[found.default], middle[found.best]
    least = MARGIN * min(times[found.best])
    faster = [c for c in middle if middle[c] < MARGIN * found.seconds and min(times[c]) < least]
    if faster:
        found.best = min(faster, key=lambda c: middle[c])
        found.seconds = middle[found.best]


def _take_turns(
    known: Sequence[C], times: dict[C, list[float]], timer: Timer[C], budget: Budget
) -> bool:
    """A warm-up each, then timed runs in turns; those without hope leave after the first.

    On a busy machine a single run says little, so hope is lost only if the warm-up was slow, too.
    """
    warm: dict[C, float] = {}
    for candidate in times:
        if budget.over:
            return False
        warm[candidate] = timer.run(candidate)
    running, turn = list(times), 0
    while turn < _turns(times[known[0]]):
        for candidate in running:
            if budget.over:
                return False
            times[candidate].append(timer.run(candidate))
        if turn == 0:
            least = {c: min(warm[c], times[c][0]) for c in running}
            limit = HOPELESS * min(least.values())
            running = [c for c in running if c in known or least[c] <= limit]
        turn += 1
    return True


def _turns(runs: Sequence[float]) -> int:
    """How many timed runs there are, by the default's fastest so far: short ones are repeated."""
    fastest = min(runs, default=math.inf)
    return next(count for least, count in _RUNS if fastest >= least)
