"""The receptive field of a value, by interval arithmetic over the reads of its equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.graph import Node, topological
from graphc.ir.index import Index, axis_index

Interval = tuple[int, int]
Box = tuple[Interval, ...]
_ROWS = 2  # images are (batch, channels, rows, columns)


@dataclass(frozen=True)
class Field:
    """Rows and columns of the image that one element reaches, and how far its neighbour's lie.

    ``stride`` is None where the value has no rows and columns of its own.
    """

    size: tuple[int, int]
    stride: tuple[int, int] | None


def receptive_field(node: Node, image: Node) -> Field | None:
    """The field of the middle element of a value; None if it does not depend on the image.

    Cells of padding count, as is usual; a value without rows and columns reaches the image at most.
    """
    middle = tuple((extent // 2,) * 2 for extent in node.shape)
    box = reached(node, middle, image)
    if box is None:
        return None
    sizes = [high - low + 1 for low, high in box[_ROWS:]]
    if len(node.shape) != len(image.shape):
        return Field((min(sizes[0], image.shape[_ROWS]), min(sizes[1], image.shape[-1])), None)
    steps = [_step(node, middle, image, box, dimension) for dimension in (_ROWS, _ROWS + 1)]
    return Field((sizes[0], sizes[1]), (steps[0], steps[1]))


def _step(node: Node, middle: Box, image: Node, box: Box, dimension: int) -> int:
    """How far the field moves where the element moves by one."""
    low, high = middle[dimension]
    moved = (*middle[:dimension], (low + 1, high + 1), *middle[dimension + 1 :])
    other = reached(node, moved, image)
    return 0 if other is None else other[dimension][0] - box[dimension][0]


def reached(node: Node, box: Box, image: Node) -> Box | None:
    """The smallest box of the image that holds every element a box of a value is computed from."""
    boxes: dict[Node, Box] = {node: box}
    for one in reversed(topological([node])):
        if one in boxes and one.equation is not None:
            for operand, part in _read_boxes(one, boxes[one]):
                boxes[operand] = _hull(boxes[operand], part) if operand in boxes else part
    return boxes.get(image)


def _read_boxes(node: Node, box: Box) -> list[tuple[Node, Box]]:
    """For every read its operand, and the box of it that the read covers."""
    equation = node.op_equation()
    extents = {axis.name: axis.extent for axis in equation.reduce_axes}
    moved: dict[str, Index] = {}
    for axis, (low, high) in zip(equation.axes, box, strict=True):
        extents[axis.name] = high - low + 1
        moved[axis.name] = axis_index(axis.name) + low
    return [
        (node.inputs[read.operand], _bounds(read.index, moved, extents)) for read in equation.reads
    ]


def _bounds(indexes: Sequence[Index], moved: dict[str, Index], extents: dict[str, int]) -> Box:
    return tuple(index.substitute(moved).bounds(extents) for index in indexes)


def _hull(one: Box, other: Box) -> Box:
    pairs = zip(one, other, strict=True)
    return tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs)
