"""The passes in order; each maps a graph to a graph of the same meaning, verified after each."""

from __future__ import annotations

from collections.abc import Callable

from graphc.errors import CompilerBug
from graphc.ir.graph import Graph
from graphc.ir.types import DType
from graphc.passes.copies import keep_copies
from graphc.passes.factor import factor_numbers
from graphc.passes.fold import fold_constants
from graphc.passes.inline import inline_maps
from graphc.passes.precision import store_narrow
from graphc.passes.reuse import reuse_relu_outputs
from graphc.passes.scatters import factor_scatters, read_maxima, sum_windows
from graphc.passes.split import split_reductions

Pass = Callable[[Graph], Graph]

PIPELINE: tuple[Pass, ...] = (
    fold_constants,
    reuse_relu_outputs,
    inline_maps,
    fold_constants,
    read_maxima,
    factor_scatters,
    sum_windows,
    split_reductions,
    factor_numbers,
)


def run_passes(graph: Graph, narrow: DType | None = None, *, copies: bool = False) -> Graph:
    """Apply the whole pipeline.

    Args:
        graph: what was declared, with its gradients.
        narrow: the 16-bit type of mixed precision, None without.
        copies: whether rounded parameters are kept from step to step.
    """
    for one in PIPELINE:
        graph = _verified(graph, one(graph), one.__name__)
    if narrow is not None:
        graph = _verified(graph, store_narrow(graph, narrow), store_narrow.__name__)
    return _verified(graph, keep_copies(graph), keep_copies.__name__) if copies else graph


def _verified(before: Graph, after: Graph, name: str) -> Graph:
    """Outputs keep shape and type; every read fits its operand."""
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise CompilerBug(f"{name} changed an output from {old!r} to {new!r}")
    for node in after.nodes:
        if node.equation is None:
            continue
        shapes = tuple(operand.shape for operand in node.inputs)
        if node.equation.operands != shapes:
            raise CompilerBug(f"{name} gave {node!r} operands {shapes}")
        for read in node.equation.reads:
            if len(read.index) != len(shapes[read.operand]):
                raise CompilerBug(f"{name} gave {node!r} a read of the wrong rank")
    return after
