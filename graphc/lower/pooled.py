"""What follows a product over windows of its results: they lie in a finished tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.ir.graph import Node
from graphc.ir.index import Index, axis_index
from graphc.ir.loops import Assign, Declare, Loop, Statement, Store
from graphc.ir.scalar import Element, Name, Number, Scalar
from graphc.ir.types import Axis, DType
from graphc.lower.access import Access, Merged
from graphc.lower.freeze import as_type, widened
from graphc.lower.group import Group
from graphc.lower.names import Namer
from graphc.lower.nest import make_stage, stage_statements
from graphc.lower.reduction import Stage, sibling_blocks
from graphc.lower.split import recast


def pooled_value(pooled: Group) -> Scalar:
    """The value whose windows are reduced, as arithmetic takes it."""
    source = pooled.nodes[0].inputs[0]
    return widened(Name(pooled.values[source], source.dtype))


def pooled_statements(
    pooled: Group, axes: Sequence[Axis], values: Mapping[str, Index], buffer: str,
    element: Callable[[tuple[Index, ...]], Index],
) -> tuple[Statement, ...]:  # fmt: skip
    """Reductions, maps and stores for one window.

    ``axes`` are those around it, ``values`` the group's own axes in terms of them; ``element`` is
    the place in ``buffer`` of the value at an index.
    """
    dtype = pooled.nodes[0].inputs[0].dtype.arithmetic
    extents = {axis.name: axis.extent for axis in axes}
    computed: dict[Node, str] = {}
    stages: list[Stage] = []
    for node in pooled.nodes:
        own, value = pooled.equations[node], pooled.values[node]
        equation = recast(own, tuple(axes), own.reduce_axes, values)
        if equation.is_map:
            stage = make_stage(node, equation, value, computed, pooled.arrays)
        else:
            place = element(equation.reads[0].index)
            stage = Stage(node, equation, [Access(buffer, dtype, place, (), 0.0)], (), value)
        stages.append(stage)
        computed[node] = value
    statements: list[Statement] = []
    for block in sibling_blocks(stages):
        statements += stage_statements(block, Merged((), {}), pooled.namer)
    for node in pooled.stored:
        index = tuple(axis_index(a.name).substitute(values) for a in pooled.outputs)
        offset = pooled.arrays[node].layout.offset(index).simplify(extents)
        statements.append(Store(pooled.arrays[node].name, offset, Name(computed[node], node.dtype)))
    return tuple(statements)


def bytes_apart(
    body: Sequence[Statement], lane: Axis, namer: Namer
) -> tuple[list[Statement], list[Declare], list[Statement]]:
    """Statements of one lane without stores of single bytes, arrays of 32 bits that these fill,
    and the loops that store them.

    Beside a byte, compilers take vectors of as many floats as are 16 bytes, not as a register has.
    """
    kept: list[Statement] = []
    arrays: list[Declare] = []
    after: list[Statement] = []
    for statement in body:
        if not isinstance(statement, Store) or statement.value.dtype.size > 1:
            kept.append(statement)
            continue
        here, wide = axis_index(lane.name), DType.int32
        name = namer.name(f"lanes of {statement.buffer}")
        arrays.append(Declare(name, wide, Number(0, wide), mutable=True, lanes=lane.extent))
        kept.append(Assign(name, as_type(statement.value, wide), here))
        value = as_type(Element(name, here, wide), statement.value.dtype)
        store = Store(statement.buffer, statement.offset, value)
        after.append(Loop(lane, (store,), simd=True))
    return kept, arrays, after
