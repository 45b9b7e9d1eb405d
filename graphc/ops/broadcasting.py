"""NumPy's broadcasting and the names of output axes, shared by the ops of any rank."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import UserError
from graphc.ir.index import Index, axis_index
from graphc.ir.types import Shape
from graphc.ops.define import SizedAxis, axis


def axis_names(rank: int) -> tuple[str, ...]:
    """Names of output axes: i, j, k, .. r, then i2, j2, .."""
    letters = "ijklmnopqr"
    return tuple(
        letters[d % 10] + (str(d // 10 + 1) if d >= len(letters) else "") for d in range(rank)
    )


def broadcast_shape(*shapes: Shape) -> Shape:
    """The common shape by NumPy's rule, or a UserError that names the conflicting extents."""
    rank = max(len(shape) for shape in shapes)
    result = []
    for back in range(rank, 0, -1):
        extents = {shape[-back] for shape in shapes if len(shape) >= back} - {1}
        if len(extents) > 1:
            conflict = " and ".join(map(str, sorted(extents)))
            raise UserError(
                "the shapes do not broadcast\n"
                f"dimension {-back} has extents {conflict}; extents must be equal or 1"
            )
        result.append(extents.pop() if extents else 1)
    return tuple(result)


def broadcast_index(shape: Shape, names: Sequence[str]) -> tuple[Index, ...]:
    """Where an operand of ``shape`` is read at the output position ``names``."""
    own = names[len(names) - len(shape) :]
    return tuple(
        Index() if extent == 1 else axis_index(name)
        for name, extent in zip(own, shape, strict=True)
    )


def sized_axes(shape: Shape) -> tuple[SizedAxis, ...]:
    """Output axes i, j, k, .. of given extents."""
    names = axis_names(len(shape))
    return tuple(axis(name, extent) for name, extent in zip(names, shape, strict=True))
