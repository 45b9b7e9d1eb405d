"""What is looked at: a network as declared, the gradients it implies, the step that is compiled."""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graphc.autodiff.backward import gradients
from graphc.backends.c.emit import emit
from graphc.backends.c.mapping import BLOCKS
from graphc.backends.c.toolchain import find_toolchain
from graphc.backends.cuda.architecture import OLDEST, has_boxes
from graphc.backends.cuda.emit import emit as emit_cuda
from graphc.dsl.model import Model
from graphc.errors import ToolchainError, UserError
from graphc.ir.graph import Assignment, Graph, Node, topological
from graphc.ir.routine import Routine
from graphc.ir.schedule import Schedule
from graphc.ir.types import DType
from graphc.lower.grid import lower_to_grid
from graphc.lower.routines import lower
from graphc.ops.effects import effects_of
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.memory import Memory, planned_memory
from graphc.schedule.plan import make_schedule
from graphc.train.network import classifier
from graphc.train.optimizers import Optimizer, update_assignments
from graphc.train.step import training_assignments
from graphc.tune.tune import tune_schedule
from graphc.verify import check_graph

WITHOUT_COMPILER = "avx2"


@dataclass(frozen=True)
class Generated:
    """The schedule, the routines and the text of every file.

    ``simd`` is the level that C is for, or "CUDA"; ``memory`` what a device must have.
    """

    schedule: Schedule
    routines: tuple[Routine, ...]
    texts: Mapping[str, str]
    simd: str
    memory: Memory | None = None

    def file_name(self, kernel: str) -> str:
        """The file that holds a kernel."""
        return f"{kernel}.c" if self.memory is None else f"{kernel}.cu"


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to look at; ``slopes`` pairs each trained value with its gradient.

    ``tuned_for`` so many threads, its kernels are those that a search chose before. The ``target``
    is "c", or "cuda" for a device of this ``architecture``.
    """

    name: str
    forward: Graph
    slopes: tuple[tuple[Node, Node], ...]
    step: Graph
    exact: bool = False
    precision: str = "fp32"
    tuned_for: int | None = None
    target: str = "c"
    architecture: str = OLDEST

    @cached_property
    def backward(self) -> tuple[Node, ...]:
        """The ops that only gradients need, in the order in which they are computed."""
        declared = set(self.forward.nodes)
        nodes = topological([slope for _, slope in self.slopes])
        return tuple(n for n in nodes if n not in declared and n.equation is not None)

    @cached_property
    def generated(self) -> Generated:
        """What would be compiled; nothing is."""
        check_graph(self.step)
        cuda = self.target == "cuda"
        graph = run_passes(self.step, PRECISIONS[self.precision], copies=cuda)
        if cuda:
            return self._generated_cuda(graph)
        simd = simd_level()
        schedule = make_schedule(graph, BLOCKS[simd], exact=self.exact)
        if self.tuned_for is not None:
            schedule = tune_schedule(
                schedule, BLOCKS[simd], find_toolchain(), seconds=0, threads=self.tuned_for,
                exact=self.exact,
            )  # fmt: skip
        routines = lower(schedule, BLOCKS[simd])
        emitted = emit(schedule, routines, BLOCKS[simd])
        return Generated(schedule, routines, {f.name: f.text for f in emitted.files}, simd)

    def _generated_cuda(self, graph: Graph) -> Generated:
        schedule = make_schedule(graph)
        boxes = has_boxes(self.architecture)
        routines = lower_to_grid(schedule, tf32=self.precision == "tf32", boxes=boxes)
        emitted = emit_cuda(schedule, routines)
        texts = {file.name: file.text for file in emitted.files}
        memory = planned_memory(schedule.buffers, schedule.arena_bytes, emitted.workspace_bytes)
        return Generated(schedule, routines, texts, "CUDA", memory)


def simd_level() -> str:
    """That of this machine's compiler, or a common one where there is no compiler."""
    try:
        return find_toolchain().simd
    except ToolchainError:
        return WITHOUT_COMPILER


def model_subject(
    model: Model, batch: int, optimizer: Optimizer, *, exact: bool = False,
    precision: str = "fp32",
) -> Subject:  # fmt: skip
    """The training step of a model, as ``graphc train`` compiles it."""
    network = classifier(model, batch)
    outputs = [network.loss, network.logits]
    subject = training_subject(model.name, outputs, optimizer, precision)
    return replace(subject, exact=exact)


def file_subject(
    path: str, optimizer: Optimizer, *, exact: bool = False, precision: str = "fp32"
) -> Subject:
    """What a Python file declares as ``loss``, ``outputs`` or both.

    Raises:
        UserError: there is no such file, or it defines neither.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}")
    found = runpy.run_path(path)
    outputs = _outputs(path, found)
    name = Path(path).stem
    if not isinstance(found.get("loss"), Node):
        graph = Graph(tuple(outputs))
        step = Graph(graph.outputs, tuple(effects_of(graph.nodes)))
        return Subject(name, graph, (), step, exact, precision)
    subject = training_subject(name, [found["loss"], *outputs], optimizer, precision)
    return replace(subject, exact=exact)


def _outputs(path: str, found: Mapping[str, Any]) -> list[Node]:
    given = found.get("outputs", [])
    outputs = [given] if isinstance(given, Node) else list(given)
    if not all(isinstance(node, Node) for node in outputs):
        raise UserError(f"{path}: `outputs` must be a graph value or a list of them")
    if not outputs and not isinstance(found.get("loss"), Node):
        raise UserError(
            f"{path} defines neither `loss` nor `outputs`\n"
            "  Assign the value to show to one of these names, outside of any function."
        )
    return outputs


def training_subject(
    name: str, outputs: Sequence[Node], optimizer: Optimizer, precision: str = "fp32"
) -> Subject:
    """The training step of a loss, which is the first output, and whatever else is returned."""
    loss, forward = outputs[0], Graph(tuple(outputs))
    leaves = [n for n in Graph((loss,)).nodes if n.equation is None and n.dtype.is_float]
    trained = [n for n in leaves if n.kind == "parameter"]
    wanted = trained or [n for n in leaves if n.kind == "input"]
    slopes = gradients(loss, wanted) if wanted else []
    assignments: list[Assignment] = []
    if trained and PRECISIONS[precision] is DType.float16:  # the step scales its gradients
        assignments = training_assignments(loss, optimizer, outputs[1:], precision)
    elif trained:
        assignments = [
            *update_assignments(optimizer, trained, slopes), *effects_of(forward.nodes)
        ]  # fmt: skip
    shown = () if trained else tuple(slopes)
    step = Graph((*forward.outputs, *shown), tuple(assignments))
    pairs = tuple(zip(wanted, slopes, strict=True))
    return Subject(name, forward, pairs, step, precision=precision)
