"""The values that a graph starts from: inputs, parameters, states and constants."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import user_error, user_location
from graphc.ir.graph import Initializer, Node
from graphc.ir.types import DType, Shape, holds_numbers
from graphc.ops.define import current_layer
from graphc.ops.messages import brief

_MAXIMUM_ELEMENTS = 1 << 56  # so that the bytes of an array fit into 63 bits
_constants: weakref.WeakValueDictionary[tuple[object, ...], Node] = weakref.WeakValueDictionary()


def input(name: str, shape: Sequence[int] | int, dtype: str | DType = "float32") -> Node:
    """An array that is fed at every step, such as a batch of images.

    Args:
        name: how the array is called when it is fed and in messages.
        shape: positive extents; ``()`` is a scalar.
        dtype: element type.

    Raises:
        UserError: the name, the shape or the type is not legal.
    """
    checked = _name("input", name)
    return Node(
        "input", checked, legal_shape(f"input '{name}'", shape),
        legal_dtype(f"input '{name}'", dtype), layer=current_layer(), location=user_location(),
    )  # fmt: skip


def parameter(
    name: str, shape: Sequence[int] | int, init: Initializer | float | np.ndarray | None = None,
    dtype: str | DType = "float32",
) -> Node:  # fmt: skip
    """An array that training changes.

    Args:
        name: how the parameter is called in checkpoints, kernels and messages.
        shape: positive extents.
        init: ``init(shape, generator)`` returns the first value; a number fills the array with it,
            an array of that shape is taken as it is. None stands for ``he_normal``.
        dtype: a floating element type.

    Raises:
        UserError: the name, the shape, the type or ``init`` is not legal.
    """
    what = f"parameter '{_name('parameter', name)}'"
    extents, kind = legal_shape(what, shape), legal_dtype(what, dtype)
    if not kind.is_float:
        raise user_error(
            f"{what}: {kind.value} values have no gradient",
            "expected a floating type; for an array without a gradient use gx.state or gx.input",
        )
    start = None if init is None else _initializer(what, init, extents)
    layer = current_layer() or name
    return Node("parameter", name, extents, kind, init=start, layer=layer, location=user_location())


def state(
    name: str, shape: Sequence[int] | int, init: Initializer | float | np.ndarray,
    dtype: str | DType = "float32",
) -> Node:  # fmt: skip
    """An array that is kept from step to step but has no gradient, such as a running mean.

    Args:
        name: how the state is called in checkpoints and messages.
        shape: positive extents; ``()`` is a scalar.
        init: ``init(shape, generator)``, a number or an array of that shape.
        dtype: element type.

    Raises:
        UserError: the name, the shape, the type or ``init`` is not legal.
    """
    what = f"state '{_name('state', name)}'"
    extents, kind = legal_shape(what, shape), legal_dtype(what, dtype)
    start = _initializer(what, init, extents)
    layer = current_layer() or name
    return Node("state", name, extents, kind, init=start, layer=layer, location=user_location())


def constant(value: Any, dtype: str | DType | None = None) -> Node:
    """A fixed array; equal constants are one node.

    Args:
        value: a number, a nested list or an array.
        dtype: element type; by default an array's own, ``float32`` for Python floats, ``int64``
            for Python ints.

    Raises:
        UserError: the value is no array of a legal type, or is empty.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise user_error(
            f"constant: {brief(value)} is no array", "the lists inside must be equally long"
        ) from None
    if dtype is None and array.dtype == np.float64 and not isinstance(value, np.ndarray):
        dtype = DType.float32
    if not holds_numbers(array.dtype):
        raise user_error(f"constant: {brief(value)} holds no numbers", "expected numbers or bools")
    kind = legal_dtype("constant", dtype if dtype is not None else array.dtype.name)
    shape = legal_shape("constant", array.shape)
    given, array = array, np.ascontiguousarray(array).astype(kind.numpy).reshape(shape)
    if not kind.is_float and not np.array_equal(given, array):
        raise user_error(
            f"constant: {brief(value)} cannot be held by {kind.value}",
            "name an element type that holds it, or round it first",
        )
    array.flags.writeable = False
    key = (kind, shape, array.tobytes())
    found = _constants.get(key)
    if found is not None:
        return found
    label = f"{array.item()}" if shape == () else "constant"
    node = Node("constant", label, shape, kind, value=array, location=user_location())
    _constants[key] = node
    return node


def legal_dtype(what: str, dtype: str | DType) -> DType:
    """The element type of that name, or a UserError that lists the legal ones."""
    if isinstance(dtype, DType):
        return dtype
    names = [d.value for d in DType]
    if not isinstance(dtype, str) or dtype not in names:
        raise user_error(
            f"{what}: {brief(dtype)} is no element type", f"expected one of {', '.join(names)}"
        )
    return DType(dtype)


def legal_shape(what: str, shape: Sequence[int] | int, *, unknown: bool = False) -> Shape:
    """The extents as a tuple of positive integers (or -1 where ``unknown``), or a UserError."""
    given = (shape,) if isinstance(shape, int | np.integer) else shape
    legal = isinstance(given, Sequence) and not isinstance(given, str)
    if not legal or not all(_is_extent(n) or (unknown and n == -1) for n in given):
        raise user_error(
            f"{what}: the shape is {brief(shape)}",
            "expected a tuple of positive integers: graphc compiles for fixed extents, the batch's "
            "too",
        )
    shape = tuple(int(extent) for extent in given)
    if math.prod(abs(extent) for extent in shape) > _MAXIMUM_ELEMENTS:
        raise user_error(
            f"{what}: the shape {list(shape)} has too many elements",
            f"expected at most {_MAXIMUM_ELEMENTS}",
        )
    return shape


def _is_extent(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def _name(what: str, name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise user_error(f"{what}: the name is {brief(name)}", "expected a text that is not empty")
    return name


def _initializer(what: str, init: object, shape: Shape) -> Initializer:
    if callable(init):
        return init
    if not isinstance(init, int | float | np.ndarray | np.generic):
        raise user_error(
            f"{what}: init is {brief(init)}",
            "expected a function (shape, generator), a number or a NumPy array",
        )
    value = np.array(init)
    if value.shape not in ((), shape) or not holds_numbers(value.dtype):
        raise user_error(
            f"{what}: init does not fit",
            f"declared: {list(shape)}",
            f"init:     {value.dtype}{list(value.shape)}",
            "expected numbers of the declared shape",
        )
    return lambda extents, _: np.broadcast_to(value, extents)
