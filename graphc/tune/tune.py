"""Schedule -> Schedule: every distinct contraction takes the choice that is cached or searched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from graphc.backends.c.cache import build_root
from graphc.backends.c.toolchain import Toolchain
from graphc.errors import user_error
from graphc.ir.loops import BlockSizes
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ops.messages import brief
from graphc.tune.bench import Bench
from graphc.tune.choices import Choices, Chosen
from graphc.tune.kernel import alone, signature
from graphc.tune.search import Budget, Finding, Timer, Trial, search
from graphc.tune.variants import ROUNDS, Candidate, Space, Variant

Origin = Literal["searched", "cut short", "cached", "not reached"]


@dataclass(frozen=True)
class TunedKernel:
    """One distinct kernel: where its choice comes from, and its times in seconds, NaN if none."""

    names: tuple[str, ...]
    origin: Origin
    default: str
    chosen: str
    seconds: float
    default_seconds: float
    tried: int


@dataclass(frozen=True)
class Report:
    """What a search came to; ``seconds`` is how long it took, ``path`` where choices are kept."""

    kernels: tuple[TunedKernel, ...]
    seconds: float
    interrupted: bool
    path: Path

    @property
    def totals(self) -> tuple[float, float]:
        """Seconds of all kernels that were measured, alone: before and after."""
        known = [k for k in self.kernels if not math.isnan(k.seconds)]
        return (
            sum(k.default_seconds * len(k.names) for k in known),
            sum(k.seconds * len(k.names) for k in known),
        )


class Listener(Protocol):
    """What is told about a search."""

    def tried(self, trial: Trial) -> None:
        """A variant has been timed."""

    def tuned(self, report: Report) -> None:
        """The search has ended."""


@dataclass(frozen=True)
class _Setting:
    """What all kernels of a search share."""

    choices: Choices
    budget: Budget
    threads: int
    make_timer: Callable[[Schedule, int], Timer[Candidate]]
    listener: Listener | None


def check_budget(seconds: object, target: str = "c") -> None:
    """Seconds that a search may take; 0 takes cached choices alone.

    Raises:
        UserError: it is no number or negative, or the target is not "c".
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not float(seconds) >= 0:  # type: ignore[arg-type]
        raise user_error(
            f"tune is {brief(seconds)}",
            "expected the seconds that the search may take, such as 60.0; 0 takes the choices of "
            "earlier searches and searches nothing",
        )
    if target != "c":
        raise user_error(
            f"tune is for the target 'c', and the target is {target!r}", "leave tune out"
        )


def tune_schedule(
    schedule: Schedule, block: BlockSizes, toolchain: Toolchain, *, seconds: float, threads: int,
    exact: bool = False, listener: Listener | None = None,
    clock: Callable[[], float] = time.monotonic,
    make_timer: Callable[[Schedule, int], Timer[Candidate]] = Bench,
) -> Schedule:  # fmt: skip
    """The schedule with tuned contractions; the others stay as the rules have them.

    Kernels with cached choices take these. The others are searched, the most expensive first, for
    ``seconds`` in all; an interrupt ends the search, and what it found so far is used.
    """
    budget = Budget(seconds, clock)
    choices = Choices(build_root(), toolchain)
    setting = _Setting(choices, budget, threads, make_timer, listener)
    kernels, rows = list(schedule.kernels), []
    for found, numbers in _distinct(schedule, block, exact):
        plans = [schedule.kernels[n] for n in numbers]
        variant, reason, row = _tuned(Space(found[1], block, exact), found[0], plans, setting)
        rows.append(row)
        for number, plan in zip(numbers, plans, strict=True):
            if reason:
                kernels[number] = variant.applied(plan, f"{plan.reason}; {reason}")
    if listener is not None:
        listener.tuned(Report(tuple(rows), budget.elapsed, budget.interrupted, choices.path))
    return replace(schedule, kernels=tuple(kernels))


def _distinct(
    schedule: Schedule, block: BlockSizes, exact: bool
) -> list[tuple[tuple[str, Schedule], list[int]]]:
    """Signature and kernel by itself of equal contractions, with their numbers, dearest first."""
    groups: dict[str, tuple[Schedule, list[int]]] = {}
    for number, plan in enumerate(schedule.kernels):
        if plan.strategy in ("nest", "rows"):
            continue
        single = alone(plan, schedule)
        groups.setdefault(signature(single, block, exact), (single, []))[1].append(number)

    def cost(numbers: Sequence[int]) -> int:
        return sum(schedule.kernels[n].nodes[0].op_equation().points for n in numbers)

    found = [((key, single), numbers) for key, (single, numbers) in groups.items()]
    return sorted(found, key=lambda group: -cost(group[1]))


def _tuned(
    space: Space, key: str, plans: Sequence[KernelPlan], setting: _Setting
) -> tuple[Variant, str, TunedKernel]:
    """The variant of one kernel, the reason, and its line in the report."""
    names = tuple(plan.name for plan in plans)
    cached = setting.choices.find(key, setting.threads)
    if cached is not None:
        return _described(space, cached, names, "cached")
    first = setting.choices.first(key)
    if not setting.budget.over:
        found = _searched(space, first, names[0], setting)
        if found.worth_keeping:
            choice = setting.choices.add(key, setting.threads, _chosen(found))
            return _described(space, choice, names, "searched" if found.finished else "cut short")
    if first is not None:
        return _described(space, first, names, "cached")
    row = TunedKernel(
        names, "not reached", space.default.text, space.default.text, math.nan, math.nan, 0
    )
    return space.default.variant, "", row


def _searched(
    space: Space, first: Chosen | None, name: str, setting: _Setting
) -> Finding[Candidate]:
    """Search from the default; or, with the same roundings, from what was chosen for others."""
    start = space.default if first is None else space.candidate(variant_from(first, space))

    seen = {start.source}

    def proposals(number: int, best: Candidate) -> list[Candidate]:
        found = [c for c in space.proposals(best, number) if c.source not in seen]
        seen.update(c.source for c in found)
        return [c for c in found if first is None or c.arithmetic == first.arithmetic]

    rounds = [partial(proposals, number) for number in range(len(ROUNDS))]
    timer = setting.make_timer(space.single, setting.threads)
    listener = setting.listener
    tell = listener.tried if listener is not None else lambda trial: None
    return search(name, start, rounds, timer, setting.budget, tell)


def variant_from(choice: Chosen, space: Space) -> Variant:
    """A cached choice as a variant of its kernel."""
    legal = {tuple(a.outputs for a in tiles): tiles for tiles in space.legal_algorithms()}
    algorithms = legal[choice.outputs] if choice.outputs else ()
    return Variant(algorithms, choice.contraction_blocks, choice.tile_blocks)


def _chosen(found: Finding[Candidate]) -> Chosen:
    variant = found.best.variant
    return Chosen(
        tuple(a.outputs for a in variant.algorithms), variant.contraction_blocks,
        variant.tile_blocks, found.best.arithmetic, found.seconds, found.default_seconds,
        found.tried,
    )  # fmt: skip


def _described(
    space: Space, choice: Chosen, names: tuple[str, ...], origin: Origin
) -> tuple[Variant, str, TunedKernel]:
    candidate = space.candidate(variant_from(choice, space))
    error = space.error(candidate)
    row = TunedKernel(
        names, origin, space.default.text, candidate.text, choice.seconds, choice.default_seconds,
        choice.tried,
    )  # fmt: skip
    if candidate.source == space.default.source:
        return candidate.variant, f"tuned: kept, none of {choice.tried} variants is faster", row
    reason = (
        f"tuned: {candidate.text}, {1e3 * choice.seconds:.3g} ms against "
        f"{1e3 * choice.default_seconds:.3g} ms"
        f"{'' if error is None else f', relative error below {error:.1e}'}"
    )
    return candidate.variant, reason, row
