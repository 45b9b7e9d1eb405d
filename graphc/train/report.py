"""What a person sees of a training run: a live line on a terminal, plain lines everywhere else."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from graphc.dsl.model import Model
from graphc.train.loop import Evaluation, Outcome, Progress
from graphc.train.network import changed_options
from graphc.train.step import TrainingStep
from graphc.train.tuning import trial_line, tuning_summary, tuning_table
from graphc.tune.search import Trial
from graphc.tune.tune import Report

INTERVAL = 5.0  # seconds between two plain lines
_WIDE = 160  # columns of a table in a log


class PlainReporter:
    """Lines for a log: the first and the last step, one every few seconds, every evaluation."""

    def __init__(self) -> None:
        self.printed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        sys.stdout.flush()

    def compiling(self, done: int, total: int, name: str) -> None:
        """The first file, the last one, and where it takes long."""
        if done == total or self._due():
            self._say(f"compiled {done}/{total} files")

    def tried(self, trial: Trial) -> None:
        """Every variant."""
        self._say(trial_line(trial))

    def tuned(self, report: Report) -> None:
        """The table of what was chosen."""
        Console(width=_WIDE).print(tuning_table(report), highlight=False)
        self._say(tuning_summary(report))

    def began(self, step: TrainingStep, steps: int) -> None:
        """The size of what runs."""
        self._say(_opening(step, steps))

    def stepped(self, progress: Progress) -> None:
        """The first step, the last of every epoch, and one every few seconds."""
        if progress.step in (1, progress.steps) or self._due():
            self._say(step_line(progress))

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out accuracy."""
        self._say(evaluation_line(evaluation))

    def hint(self, text: str) -> None:
        """What looks wrong."""
        self._say(f"hint: {text}")

    def _due(self) -> bool:
        return time.monotonic() - self.printed > INTERVAL

    def _say(self, line: str) -> None:
        self.printed = time.monotonic()
        print(line, flush=True)


class LiveReporter:
    """A bar that moves; evaluations and hints stand above it."""

    def __init__(self, console: Console) -> None:
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[facts]}"),
            console=console,
        )  # fmt: skip
        self.compile_task: TaskID | None = None
        self.train_task: TaskID | None = None
        self.tune_task: TaskID | None = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.bar.stop()

    def compiling(self, done: int, total: int, name: str) -> None:
        """Move the bar of files; a finished one goes away."""
        if self.compile_task is None:
            self.compile_task = self.bar.add_task("compile", total=total, facts="")
        self.bar.update(self.compile_task, completed=done, facts=name)
        if done == total:
            self.bar.remove_task(self.compile_task)
            self.compile_task = None

    def tried(self, trial: Trial) -> None:
        """Every variant on a line; the bar of seconds moves."""
        self.bar.console.print(trial_line(trial), highlight=False)
        if self.tune_task is None:
            self.tune_task = self.bar.add_task("tune", total=round(trial.budget), facts="")
        spent = min(round(trial.elapsed), round(trial.budget))
        self.bar.update(self.tune_task, completed=spent, facts=trial.kernel)

    def tuned(self, report: Report) -> None:
        """The table of what was chosen; the bar goes away."""
        if self.tune_task is not None:
            self.bar.remove_task(self.tune_task)
            self.tune_task = None
        self.bar.console.print(tuning_table(report), highlight=False)
        self.bar.console.print(tuning_summary(report), highlight=False)

    def began(self, step: TrainingStep, steps: int) -> None:
        """The bar of steps."""
        self.bar.console.print(_opening(step, steps), highlight=False)
        self.train_task = self.bar.add_task("epoch 1", total=steps, facts="")

    def stepped(self, progress: Progress) -> None:
        """Move the bar of steps."""
        assert self.train_task is not None
        self.bar.update(
            self.train_task, completed=progress.step, facts=_short_facts(progress),
            description=f"epoch {progress.epoch}/{progress.epochs}",
        )  # fmt: skip

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out accuracy."""
        self.bar.console.print(evaluation_line(evaluation), highlight=False)

    def hint(self, text: str) -> None:
        """What looks wrong."""
        self.bar.console.print(f"[yellow]hint:[/yellow] {text}", highlight=False)


def make_reporter() -> PlainReporter | LiveReporter:
    """Live where the output is a terminal."""
    return LiveReporter(Console()) if sys.stdout.isatty() else PlainReporter()


def step_line(progress: Progress) -> str:
    """One step on one line."""
    return (
        f"step {progress.step}/{progress.steps}  epoch {progress.epoch}/{progress.epochs}  "
        f"{_facts(progress)}"
    )


def evaluation_line(evaluation: Evaluation) -> str:
    """One evaluation on one line."""
    count = evaluation.count
    return (
        f"epoch {evaluation.epoch}: held-out top-1 {evaluation.top1 / count:.2%}, "
        f"top-5 {evaluation.top5 / count:.2%} of {count} images"
    )


def closing_lines(model: Model, outcome: Outcome, options: Mapping[str, Any]) -> str:
    """What the run came to, and where its formulas, gradients and sources can be read."""
    last = outcome.last
    layers = [layer.name for layer in model.layers if layer.parameters]
    command = show_command(model, options)
    return "\n".join([
        f"{last.step} steps in {outcome.seconds:.1f} s: loss {last.loss:.4f} (epoch's mean "
        f"{last.mean_loss:.4f}), training accuracy {last.accuracy:.2%}, {last.rate:.1f} images/s",
        f"{outcome.program.language} sources: {outcome.program.folder}",
        "formulas and gradients of a layer beside its C:",
        f"  {command} --node {layers[len(layers) // 2]}",
        "all kernels in the order in which they run:",
        f"  {command} --stage schedule",
    ])  # fmt: skip


def show_command(model: Model, options: Mapping[str, Any]) -> str:
    """The command that shows this model as it was compiled."""
    words = ["graphc", "show", model.name]
    for name, value in {**changed_options(model), **options}.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [f"{value}"])]
    return shlex.join(words)


def _opening(step: TrainingStep, steps: int) -> str:
    program = step.program
    count = sum(array.size for array in step.parameters.values())
    memory = (program.arena_bytes + program.workspace_bytes) / 2**20
    made = f"compiled in {program.compile_seconds:.1f} s" if program.compiled else "from the cache"
    return (
        f"{count:,} parameters, {len(step.kernels)} kernels ({made}), {memory:.0f} MiB for "
        f"intermediate values, {program.machine}, {steps} steps"
    )


def _facts(progress: Progress) -> str:
    return (
        f"loss {progress.loss:.4f}  accuracy {progress.accuracy:.2%}  "
        f"{progress.rate:.1f} images/s  lr {progress.learning_rate:.2g}  "
        f"left {_duration(progress.seconds_left)}"
    )


def _short_facts(progress: Progress) -> str:
    return (
        f"loss {progress.loss:.4f}  {progress.accuracy:.1%}  {progress.rate:.0f} images/s  "
        f"{_duration(progress.seconds_left)} left"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
