"""The search for the fastest candidate with made-up times and a made-up clock."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from graphc.tune.search import Budget, Finding, Trial, search


@dataclass(frozen=True)
class Candidate:
    text: str


DEFAULT, FAST, FASTER, SLOW, ALIKE = map(Candidate, ("default", "fast", "faster", "slow", "alike"))
SECONDS = {DEFAULT: 1.0, FAST: 0.8, FASTER: 0.5, SLOW: 1.6, ALIKE: 0.98}


class Machine:
    """A timer and a clock: running and compiling make time pass; ``interrupt_at`` a run."""

    def __init__(self, batch: int = 4, compile_seconds: float = 0.0, interrupt_at: int = 10**9):
        self.batch, self.compile_seconds, self.interrupt_at = batch, compile_seconds, interrupt_at
        self.now = 100.0
        self.runs: list[Candidate] = []
        self.prepared: list[list[Candidate]] = []

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        self.prepared.append(list(candidates))
        self.now += self.compile_seconds

    def run(self, candidate: Candidate) -> float:
        self.runs.append(candidate)
        if len(self.runs) == self.interrupt_at:
            raise KeyboardInterrupt
        self.now += SECONDS[candidate]
        return SECONDS[candidate]

    def search(
        self, *rounds: Sequence[Candidate], seconds: float = 1e6
    ) -> tuple[Finding[Candidate], list[Trial], Budget]:
        budget = Budget(seconds, lambda: self.now)
        trials: list[Trial] = []
        proposals = [lambda best, found=found: found for found in rounds]
        return search("net", DEFAULT, proposals, self, budget, trials.append), trials, budget


def test_the_fastest_wins_and_every_one_is_told() -> None:
    found, trials, _ = Machine().search([FAST, FASTER, ALIKE])
    assert found.finished and found.best is FASTER
    assert (found.seconds, found.default_seconds) == (0.5, 1.0)
    assert [t.variant for t in trials] == ["fast", "faster", "alike"]
    assert {t.default_seconds for t in trials} == {1.0} and found.tried == 3


def test_a_gain_below_three_percent_changes_nothing() -> None:
    found, _, _ = Machine().search([ALIKE, SLOW])
    assert found.finished and found.best is DEFAULT and found.seconds == 1.0


def test_turns_are_taken_and_the_hopeless_run_once() -> None:
    machine = Machine()
    _, trials, _ = machine.search([FAST, SLOW])
    warm, turns = machine.runs[:3], machine.runs[3:]
    assert warm == [DEFAULT, FAST, SLOW]
    assert turns == [DEFAULT, FAST, SLOW, DEFAULT, FAST, DEFAULT, FAST]
    assert {t.variant: t.runs for t in trials} == {"fast": 3, "slow": 1}


def test_one_slow_run_among_quick_ones_is_a_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    plain = machine.run

    def disturbed(candidate: Candidate) -> float:
        seconds = plain(candidate)
        return 9.0 if machine.runs.count(FAST) == 2 and candidate is FAST else seconds

    monkeypatch.setattr(machine, "run", disturbed)
    found, _, _ = machine.search([FAST])
    assert found.best is FAST


def test_a_later_round_builds_on_the_best_so_far() -> None:
    seen: list[Candidate] = []

    def second(best: Candidate) -> list[Candidate]:
        seen.append(best)
        return [FASTER]

    machine = Machine()
    budget = Budget(1e6, lambda: machine.now)
    rounds = [lambda best: [FAST], second]
    found = search("net", DEFAULT, rounds, machine, budget, lambda trial: None)
    assert seen == [FAST] and found.best is FASTER
    assert machine.prepared[1] == [DEFAULT, FAST, FASTER]


def test_batches_are_as_large_as_the_timer_compiles_at_once() -> None:
    machine = Machine(batch=1)
    machine.search([FAST, FASTER])
    assert machine.prepared == [[DEFAULT, FAST], [DEFAULT, FAST, FASTER]]


def test_short_kernels_run_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECONDS, DEFAULT, 0.0005)
    monkeypatch.setitem(SECONDS, FAST, 0.0004)
    _, trials, _ = Machine().search([FAST])
    assert trials[0].runs == 15


@pytest.mark.parametrize("seconds", [0.0, 3.0, 7.0, 9.5, 40.0])
def test_the_budget_is_kept(seconds: float) -> None:
    machine = Machine(batch=1, compile_seconds=2.0)
    found, _, _ = machine.search([FAST, FASTER], [SLOW], seconds=seconds)
    assert machine.now - 100.0 <= seconds + 2.0 + max(SECONDS.values())
    assert found.finished == (seconds == 40.0)
    assert (
        found.best is {0.0: DEFAULT, 3.0: DEFAULT, 7.0: DEFAULT, 9.5: FAST, 40.0: FASTER}[seconds]
    )
    assert bool(machine.runs) == (seconds > 0)


@pytest.mark.parametrize(("run", "best"), [(1, DEFAULT), (6, DEFAULT), (9, FAST), (12, FAST)])
def test_an_interrupt_keeps_what_was_found(run: int, best: Candidate) -> None:
    machine = Machine(batch=1, interrupt_at=run)
    found, _, budget = machine.search([FAST, FASTER])
    assert found.best is best and not found.finished
    assert budget.interrupted and budget.over
    assert len(machine.runs) == run, "nothing runs after an interrupt"
    assert found.worth_keeping == (best is FAST)
