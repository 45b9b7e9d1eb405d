"""One training step as one program: forward, backward, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.autodiff.backward import gradients
from graphc.backends.base import KernelInfo, Program
from graphc.compiler import Progress, compile_graph
from graphc.errors import user_error
from graphc.ir.graph import Assignment, Graph, Node
from graphc.ir.types import DType
from graphc.ops.effects import effects_of
from graphc.ops.messages import brief, check_values, describe
from graphc.passes.precision import legal_precision
from graphc.train.optimizers import Optimizer, update_assignments
from graphc.train.scaling import guarded, scaled_gradients
from graphc.tune.tune import Listener


class TrainingStep:
    """Call it with a batch: the parameters move one step; returns [loss, *metrics]."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, **feeds: Any) -> list[np.ndarray]:
        """One step; see ``Program`` for the errors."""
        return self.program(**feeds)

    def stream(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[list[np.ndarray]]:
        """One step for each batch; on a device the next is copied meanwhile (``Program``)."""
        return self.program.stream(batches)

    @property
    def parameters(self) -> dict[str, Any]:
        """Arrays by name, updated in place."""
        return self.program.parameters

    @property
    def states(self) -> dict[str, Any]:
        """Optimizer slots, running statistics, counters."""
        return self.program.states

    @property
    def kernels(self) -> dict[str, KernelInfo]:
        """Generated kernels by name in execution order."""
        return self.program.kernels

    @property
    def learning_rate(self) -> float:
        """The learning rate; assign to it between steps."""
        return float(next(iter(self._rates())))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not 0 <= value < float("inf"):
            raise user_error(
                f"learning_rate is {value}", "expected a finite number that is not negative"
            )
        for rate in self._rates():
            rate[...] = value

    def _rates(self) -> list[Any]:
        return [a for name, a in self.states.items() if name.startswith("learning_rate")]


def training_step(
    loss: Node, optimizer: Optimizer, *, metrics: Sequence[Node] = (), target: str = "c",
    name: str = "net", parameters: Mapping[str, Any] | None = None, arch: str | None = None,
    seed: int = 0, threads: int | None = None, exact: bool = False, precision: str = "fp32",
    tune: float | None = None, progress: Progress | None = None, tuning: Listener | None = None,
) -> TrainingStep:  # fmt: skip
    """Compile the training step of a scalar loss.

    Args:
        loss: a floating scalar.
        optimizer: how parameters move.
        metrics: further nodes to return from every step.
        parameters: arrays by name to start from and update in place.
        target: see ``gx.compile``, as for what follows.
        name: names the folder of the generated sources.
        seed: of the initialisers.
        threads: OpenMP threads.
        exact: no tiled (Winograd) convolutions.
        precision: "fp32", "tf32", "bf16" or "fp16". Parameters and their updates are float32 in
            each; with "fp16" gradients are scaled (``train/scaling.py``).
        arch: which device kernels are made for.
        tune: seconds to search for the fastest kernels.
        progress: called while compiling.
        tuning: told about the search.

    Raises:
        UserError: no parameter influences the loss, and what ``gx.compile`` raises.
    """
    assignments = training_assignments(loss, optimizer, metrics, precision)
    program = compile_graph(
        [loss, *metrics], assignments=assignments, target=target, name=name,
        parameters=parameters, seed=seed, threads=threads, exact=exact,
        precision=precision, arch=arch, tune=tune, progress=progress, tuning=tuning,
    )  # fmt: skip
    return TrainingStep(program)


def training_assignments(
    loss: Node, optimizer: Optimizer, metrics: Sequence[Node] = (), precision: str = "fp32"
) -> list[Assignment]:
    """Updates of every parameter that the loss depends on, and the layers' own side effects."""
    narrow = legal_precision("training_step", precision)
    check_values("training_step", loss, *metrics)
    if not isinstance(optimizer, Optimizer):
        raise user_error(
            f"training_step: the optimizer is {brief(optimizer)}",
            "expected one such as gx.SGD(0.1)",
        )
    nodes = Graph((loss, *metrics)).nodes
    trained = [node for node in Graph((loss,)).nodes if node.kind == "parameter"]
    if not trained:
        raise user_error(
            "training_step: the loss depends on no parameter", *describe([loss], ["loss"]),
            "there is nothing to train: declare one with gx.parameter(name, shape)",
        )  # fmt: skip
    effects = effects_of(nodes)
    if narrow is not DType.float16:
        return [*update_assignments(optimizer, trained, gradients(loss, trained)), *effects]
    scaled = scaled_gradients(loss, trained)
    return guarded([*update_assignments(optimizer, trained, scaled.values), *effects], scaled)
