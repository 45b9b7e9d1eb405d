"""The training loop of the command line: a learning rate, epochs of steps, their evaluation.

What is seen of it is a reporter's matter; what can be computed without the loop is a function here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from graphc.backends.base import Program
from graphc.compiler import compile_graph
from graphc.dsl.model import Model
from graphc.errors import UserError
from graphc.train.data import batches, evaluation_batches
from graphc.train.dataset import Dataset
from graphc.train.metrics import top_k
from graphc.train.network import Network, classifier, make_optimizer
from graphc.train.step import TrainingStep, training_step
from graphc.tune.tune import Listener

SCHEDULES = ("cosine", "constant")
SETTLED = 50  # steps after which a loss that has not moved is worth a word
_WINDOW = 20
_NEAR = 0.02  # of the loss of guessing
_FALLING = 0.005


@dataclass(frozen=True)
class Options:
    """How to train. ``steps`` takes the place of ``epochs``; None stands for what usually works."""

    batch: int = 64
    epochs: int = 4
    steps: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    warmup: int = 20
    schedule: str = "cosine"
    seed: int = 0
    threads: int | None = None
    target: str = "c"
    exact: bool = False
    precision: str = "fp32"
    tune: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step; loss and accuracy are means since the epoch began."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    mean_loss: float
    accuracy: float
    learning_rate: float
    rate: float  # images a second; 0 before it is known
    seconds_left: float


@dataclass(frozen=True)
class Evaluation:
    """How many of ``count`` held-out images are right, and right among the first five."""

    epoch: int
    count: int
    top1: int
    top5: int


@dataclass(frozen=True)
class Outcome:
    """What a run came to; ``program`` knows its sources."""

    program: Program
    last: Progress
    evaluations: tuple[Evaluation, ...]
    seconds: float  # of the steps, without compiling and evaluating


class Reporter(Listener, Protocol):
    """What is told about a run while it goes on."""

    def compiling(self, done: int, total: int, name: str) -> None:
        """A file has been compiled."""

    def began(self, step: TrainingStep, steps: int) -> None:
        """The program is ready."""

    def stepped(self, progress: Progress) -> None:
        """A step is done."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The held-out images have been classified."""

    def hint(self, text: str) -> None:
        """Something looks wrong."""


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """The rate of step ``step`` of ``steps``, from 0: a linear rise, then constant or a cosine.

    The cosine falls to 0 where the last step ends (Loshchilov and Hutter 2017, without restarts).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(model: Model, data: Dataset, options: Options, reporter: Reporter) -> Outcome:
    """Train a model; parameters and states stay in ``Outcome.program``.

    Raises:
        UserError: an option does not fit, or the loss became infinite or no number.
        ToolchainError: no compiler, or it failed.
    """
    per_epoch = len(data.train_images) // options.batch
    batches(data.train_images, data.train_labels, options.batch, epoch=0, seed=options.seed)
    optimizer = make_optimizer(
        options.optimizer, options.lr, options.momentum, options.weight_decay
    )
    network = classifier(model, options.batch)
    step = training_step(
        network.loss, optimizer, metrics=[network.logits], target=options.target,
        name=model.name, seed=options.seed, threads=options.threads,
        exact=options.exact, precision=options.precision, tune=options.tune,
        progress=reporter.compiling, tuning=reporter,
    )  # fmt: skip
    steps = options.steps or options.epochs * per_epoch
    reporter.began(step, steps)
    run = _Run(network, data, options, reporter, step, steps, per_epoch, optimizer.lr)
    return run.finish()


@dataclass(frozen=True)
class _Batch:
    """What is known of a step before it is computed."""

    number: int
    epoch: int
    labels: np.ndarray


@dataclass
class _Run:
    """One run: what stays, and what changes with every step."""

    network: Network
    data: Dataset
    options: Options
    reporter: Reporter
    step: TrainingStep
    steps: int
    per_epoch: int
    peak: float
    clock: list[float] = field(default_factory=list)  # seconds of each step, its batch included
    mark: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=2 * _WINDOW))
    evaluations: list[Evaluation] = field(default_factory=list)
    evaluator: Program | None = None
    loss_sum: float = 0.0
    right: int = 0
    in_epoch: int = 0
    last: Progress | None = None
    warned: bool = False

    @property
    def epochs(self) -> int:
        return -(-self.steps // self.per_epoch)

    def finish(self) -> Outcome:
        """All steps, and an evaluation after every epoch."""
        self.mark = time.perf_counter()
        begun: deque[_Batch] = deque()
        results = self.step.stream(self._feeds(begun))
        for number in range(self.steps):
            self.step.learning_rate = self._rate(number)
            loss, logits = next(results)
            batch = begun.popleft()
            self._stepped(batch, float(loss), logits)
            ended = number + 1 == self.steps or self.in_epoch == self.per_epoch
            if ended and self._can_evaluate():
                self._evaluate(batch.epoch)
                self.mark = time.perf_counter()
        assert self.last is not None
        return Outcome(self.step.program, self.last, tuple(self.evaluations), sum(self.clock))

    def _feeds(self, begun: deque[_Batch]) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of every step; ``begun`` gets what is to be known when its results come."""
        number, seed = 0, self.options.seed
        images, labels, batch = self.data.train_images, self.data.train_labels, self.options.batch
        for epoch in range(self.epochs):
            for pixels, targets in batches(images, labels, batch, epoch=epoch, seed=seed):
                if number == self.steps:
                    return
                begun.append(_Batch(number, epoch, targets))
                yield {"x": pixels.astype(self.network.x.dtype.numpy, copy=False), "y": targets}
                number += 1

    def _rate(self, number: int) -> float:
        options = self.options
        return learning_rate(number, self.steps, self.peak, options.warmup, options.schedule)

    def _stepped(self, batch: _Batch, loss: float, logits: np.ndarray) -> None:
        number = batch.number
        if number % self.per_epoch == 0:
            self.loss_sum, self.right, self.in_epoch = 0.0, 0, 0
        self._tick()
        self._count(loss, logits, batch.labels)
        if not math.isfinite(loss):
            raise UserError(_diverged(number + 1, loss, self.peak, self.options))
        self.last = self._progress(number, batch.epoch, loss, self._rate(number))
        self.reporter.stepped(self.last)
        if number + 1 >= SETTLED and not self.warned and self._stands_still():
            self.warned = True
            self.reporter.hint(_standing_still(self.network, number + 1))

    def _tick(self) -> None:
        now = time.perf_counter()
        self.clock.append(now - self.mark)
        self.mark = now

    def _count(self, loss: float, logits: np.ndarray, labels: np.ndarray) -> None:
        self.recent.append(loss)
        self.loss_sum += loss
        self.right += top_k(logits, labels, 1)
        self.in_epoch += 1

    def _progress(self, number: int, epoch: int, loss: float, rate: float) -> Progress:
        # The first step pays for pages touched for the first time.
        timed = self.clock[1:] or self.clock
        seconds = sum(timed) / len(timed)
        seen, batch = self.in_epoch, self.options.batch
        return Progress(
            number + 1, self.steps, epoch + 1, self.epochs, loss, self.loss_sum / seen,
            self.right / (seen * batch), rate, batch / seconds,
            seconds * (self.steps - number - 1),
        )  # fmt: skip

    def _stands_still(self) -> bool:
        """Near the loss of guessing, and not on the way down; made-up data allows no better."""
        chance = math.log(self.network.logits.shape[1])
        if self.data.name == "synthetic" or not chance:
            return False
        losses = list(self.recent)
        before, now = sum(losses[:_WINDOW]) / _WINDOW, sum(losses[-_WINDOW:]) / _WINDOW
        return abs(now - chance) < _NEAR * chance and before - now < _FALLING * chance

    def _can_evaluate(self) -> bool:
        """Made-up data has nothing to generalise to; a short run is not outdone by its test."""
        needed = -(-len(self.data.test_images) // self.options.batch)
        short = self.options.steps is not None and needed > 3 * self.options.steps
        return self.data.name != "synthetic" and not short

    def _evaluate(self, epoch: int) -> None:
        if self.evaluator is None:
            self.evaluator = self._compile_evaluator()
        images, labels = self.data.test_images, self.data.test_labels
        top1 = top5 = 0
        for pixels, targets, count in evaluation_batches(images, labels, self.options.batch):
            feed = pixels.astype(self.network.x.dtype.numpy, copy=False)
            logits = self.evaluator(x=feed)[0][:count]
            top1 += top_k(logits, targets[:count], 1)
            top5 += top_k(logits, targets[:count], 5)
        self.evaluations.append(Evaluation(epoch + 1, len(images), top1, top5))
        self.reporter.evaluated(self.evaluations[-1])

    def _compile_evaluator(self) -> Program:
        """The logits without dropout and with running statistics, on the trained arrays."""
        logits = self.network.model(self.network.x, training=False)
        return compile_graph(
            [logits], target=self.options.target, name=f"{self.network.model.name}_evaluation",
            parameters={**self.step.parameters, **self.step.states},
            threads=self.options.threads, exact=self.options.exact,
            precision=self.options.precision, progress=self.reporter.compiling,
        )  # fmt: skip


def _diverged(step: int, loss: float, peak: float, options: Options) -> str:
    return (
        f"the loss of step {step} is {loss}: training diverged with --lr {peak:g}\n"
        f"  Try a lower one (--lr {peak / 10:.2g}), a longer warm-up (--warmup "
        f"{max(100, 2 * options.warmup)}), or --batch-norm."
    )


def _standing_still(network: Network, steps: int) -> str:
    settings, classes = network.model.settings, network.logits.shape[1]
    remedies = ["a learning rate three times lower or higher (--lr)"]
    if settings.scheme != "he":
        remedies.insert(0, "He initialisation (--init he)")
    if not settings.batch_norm:
        remedies.append("batch normalisation (--batch-norm)")
    return (
        f"the loss stays at {math.log(classes):.3f} = ln {classes}, that of guessing: nothing has "
        f"been learned in {steps} steps. Try {', or '.join(remedies)}."
    )
