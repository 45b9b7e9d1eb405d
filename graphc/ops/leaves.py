"""The values that a graph starts from: inputs, parameters, states and constants."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import user_error, user_location
from graphc.ir.graph import Initializer, Node
from graphc.ir.types import DType, Shape
from graphc.ops.define import current_layer

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
            f"{what}: a parameter must be floating to have a gradient, here {kind.value}",
            "for an array without a gradient use gx.state or gx.input",
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
    array = np.asarray(value)
    if dtype is None and array.dtype == np.float64 and not isinstance(value, np.ndarray):
        dtype = DType.float32
    kind = legal_dtype("constant", dtype if dtype is not None else str(array.dtype))
    shape = legal_shape("constant", array.shape)
    array = np.ascontiguousarray(array, kind.numpy).reshape(shape).copy()
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
    if dtype not in names:
        raise user_error(f"{what}: '{dtype}' is no element type", f"expected {', '.join(names)}")
    return DType(dtype)


def legal_shape(what: str, shape: Sequence[int] | int) -> Shape:
    """The extents as a tuple of positive integers, or a UserError."""
    given = (shape,) if isinstance(shape, int) else shape
    if not isinstance(given, Sequence) or not all(_is_extent(n) for n in given):
        raise user_error(
            f"{what}: the shape must be a tuple of positive integers, here {shape!r}",
            "graphc compiles for fixed extents: give every one of them, the batch's too",
        )
    return tuple(int(extent) for extent in given)


def _is_extent(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def _name(what: str, name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise user_error(f"{what}: the name must be a non-empty text, here {name!r}")
    return name


def _initializer(what: str, init: object, shape: Shape) -> Initializer:
    if callable(init):
        return init
    if not isinstance(init, int | float | np.ndarray | np.generic):
        raise user_error(
            f"{what}: init must be a function (shape, generator), a number or an array, "
            f"here {init!r}"
        )
    value = np.array(init)
    if value.shape not in ((), shape):
        raise user_error(
            f"{what}: init has shape {list(value.shape)}, the array has {list(shape)}",
            "the two must be equal",
        )
    return lambda extents, _: np.broadcast_to(value, extents).copy()
