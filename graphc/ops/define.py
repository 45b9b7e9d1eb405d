"""``@op``: a Python function that writes one index equation becomes an op.

@op
def matmul(a, b):
    i, j, k = axes("i j k")
    return define[i, j](sum_over[k](a[i, k] * b[k, j]))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, overload

import numpy as np
import sympy

from graphc.errors import CompilerBug, UserError, user_error, user_location
from graphc.ir.equation import Equation, Guard, Read, Reduction, position_symbol, read_symbol
from graphc.ir.graph import Node, op_node
from graphc.ir.index import Index, axis_index
from graphc.ir.types import DType, Shape
from graphc.ops.extents import infer_axes
from graphc.ops.messages import (
    LETTERS,
    brief,
    check_values,
    describe,
    explained,
    illegal_expression,
)

Padding = Sequence[tuple[int, int]]


@dataclass
class Trace:
    """What one run of an op's function has read so far."""

    shapes: tuple[Shape, ...]
    reads: list[Read] = field(default_factory=list)
    paddings: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    positions: list[Index] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)

    def read(self, read: Read, padding: tuple[tuple[int, int], ...]) -> sympy.Symbol:
        """The symbol of a read; the same read is the same symbol."""
        if read not in self.reads:
            self.reads.append(read)
            self.paddings.append(padding)
        return read_symbol(self.reads.index(read))

    def position(self, index: Index) -> sympy.Symbol:
        """The symbol of an integer position."""
        if index not in self.positions:
            self.positions.append(index)
        return position_symbol(self.positions.index(index))


_active: list[Trace] = []


@dataclass(frozen=True)
class Operand:
    """An op's argument while its equation is written: index it to read it."""

    number: int
    shape: Shape
    padding: tuple[tuple[int, int], ...]
    fill: float | None = None

    def padded(self, padding: Padding, value: float = 0.0) -> Operand:
        """The same array in a border of ``value``: (before, after) for each dimension."""
        if not any(map(any, padding)):
            return self
        return Operand(self.number, self.shape, tuple(padding), value)

    def __getitem__(self, index: Any) -> sympy.Symbol:
        """The value at an index: one affine expression of axes for each dimension."""
        items = index if isinstance(index, tuple) else (index,)
        if len(items) != len(self.shape):
            raise UserError(
                f"{self.letter} has {len(self.shape)} dimensions but is read with {len(items)} "
                f"indexes\nthe read is at {user_location()}; give one index a dimension"
            )
        shifted = tuple(
            _as_index(item) - before for item, (before, _) in zip(items, self.padding, strict=True)
        )
        return _active[-1].read(Read(self.number, shifted, self.fill), self.padding)

    @property
    def letter(self) -> str:
        """What messages call it."""
        return LETTERS[self.number % len(LETTERS)]

    def __repr__(self) -> str:
        """A few words for messages."""
        return f"the operand {self.letter}, which is not read"


def _as_index(item: Any) -> Index:
    if isinstance(item, int) and not isinstance(item, bool):
        return Index((), item)
    if not isinstance(item, Index) or any(type(c) is not int for _, c in item.terms):
        raise UserError(
            f"an index is no sum of axes and whole numbers\nthe read is at {user_location()}; "
            "an index may add axes, multiply them by whole numbers and divide by them (//, %)"
        )
    return item


@dataclass(frozen=True)
class SizedAxis(Index):
    """An axis whose extent is given instead of following from the reads."""

    extent: int = 0


def axes(names: str) -> tuple[Index, ...]:
    """Axes by name, separated by spaces; their extents follow from the reads."""
    return tuple(axis_index(name) for name in names.split())


def axis(name: str, extent: int) -> SizedAxis:
    """An axis of a given extent."""
    return SizedAxis(((name, 1),), 0, extent)


def position(index: Index) -> sympy.Symbol:
    """The integer value of an index inside a body."""
    return _active[-1].position(Index(index.terms, index.const))


def where_divisible(index: Index, divisor: int) -> Index:
    """The exact quotient index / divisor; where it is not whole the body counts as 0."""
    if divisor == 1:
        return index
    guard = Guard(Index(index.terms, index.const), divisor=divisor)
    if guard not in _active[-1].guards:
        _active[-1].guards.append(guard)
    return index // divisor


def indicator(condition: Any) -> sympy.Expr:
    """1 where the condition holds, else 0."""
    return sympy.Piecewise((sympy.Integer(1), condition), (sympy.Integer(0), True))


@dataclass(frozen=True)
class Reduced:
    """A body under a reduction."""

    reduction: Reduction
    axes: tuple[Index, ...]
    body: sympy.Expr


@dataclass(frozen=True)
class Definition:
    """The written equation before extents are known."""

    axes: tuple[Index, ...]
    reduced: Reduced


class _Over:
    """``sum_over[k](body)``."""

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction

    def __getitem__(self, names: Any) -> Callable[[Any], Reduced]:
        reduced = names if isinstance(names, tuple) else (names,)
        return lambda body: Reduced(self.reduction, reduced, _body(body))


class _Define:
    """``define[i, j](expression)``."""

    def __getitem__(self, names: Any) -> Callable[[Any], Definition]:
        out = names if isinstance(names, tuple) else (names,)
        return lambda expression: Definition(out, _as_reduced(expression))


def _as_reduced(expression: Any) -> Reduced:
    if isinstance(expression, Reduced):
        return expression
    return Reduced("none", (), _body(expression))


def _body(value: Any) -> sympy.Basic:
    """A scalar expression, or a UserError for anything else."""
    if isinstance(value, bool | int | float | np.generic):
        return sympy.sympify(value)
    if not isinstance(value, sympy.Basic):
        raise UserError(
            f"the expression is {brief(value)}\nit is written at {user_location()}; expected an "
            "expression of reads, such as a[i, k] * b[k, j], with functions of gx.scalar"
        )
    return value


define = _Define()
sum_over = _Over("sum")
max_over = _Over("max")
min_over = _Over("min")
prod_over = _Over("prod")
argmax_over = _Over("argmax")
argmin_over = _Over("argmin")


class Op:
    """An op: call it with nodes; ``equation`` gives its index equation for given shapes."""

    def __init__(self, function: Callable[..., Definition], dtype: DType | None) -> None:
        self.function = function
        self.dtype = dtype
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._cached = lru_cache(maxsize=1024)(self._trace)

    def equation(self, *shapes: Shape, **attributes: Any) -> Equation:
        """The equation for operands of the given shapes."""
        return self._cached(shapes, tuple(sorted(attributes.items())))

    def __call__(self, *inputs: Node, label: str | None = None, **attributes: Any) -> Node:
        """Apply the op; attributes must be hashable (tuples, not lists).

        ``label`` is what people read instead of the function's name.
        """
        name = label or self.__name__
        check_values(name, *inputs)
        dtype = self.dtype or result_dtype(name, inputs)
        self._check_call(name, inputs, attributes)
        try:
            equation = self.equation(*(value.shape for value in inputs), **attributes)
        except UserError as error:
            raise explained(name, error, inputs) from None
        return op_node(
            equation, tuple(inputs), dtype,
            label=name, layer=current_layer(), location=user_location(),
        )  # fmt: skip

    def _check_call(self, name: str, inputs: Sequence[Node], attributes: dict[str, Any]) -> None:
        try:
            inspect.signature(self.function).bind(*inputs, **attributes)
        except TypeError as error:
            raise user_error(
                f"{name}: {error}", *describe(inputs),
                "pass graph values by position and attributes by keyword, as the op declares them",
            ) from None  # fmt: skip
        for key, value in attributes.items():
            if not _hashable(value):
                raise user_error(
                    f"{name}: the attribute {key}={brief(value)} can change after the call",
                    "pass numbers, texts and tuples of them: (1, 2) instead of [1, 2]",
                )

    def _trace(
        self, shapes: tuple[Shape, ...], attributes: tuple[tuple[str, Any], ...]
    ) -> Equation:
        trace = Trace(shapes)
        operands = [Operand(i, s, ((0, 0),) * len(s)) for i, s in enumerate(shapes)]
        _active.append(trace)
        try:
            definition = self.function(*operands, **dict(attributes))
        except (TypeError, ValueError, AttributeError) as error:
            illegal = illegal_expression(error)
            if illegal is None:
                raise
            raise illegal from None
        finally:
            _active.pop()
        if not isinstance(definition, Definition):
            raise UserError(
                "the function does not return a definition\nend it with return "
                "gx.define[axes](expression)"
            )
        return _finish(trace, definition)


def _finish(trace: Trace, definition: Definition) -> Equation:
    reduced = definition.reduced
    given = {
        i.terms[0][0]: i.extent
        for i in (*definition.axes, *reduced.axes)
        if isinstance(i, SizedAxis) and isinstance(i.terms[0][0], str)
    }
    out = tuple(_axis_name(i) for i in definition.axes)
    over = tuple(_axis_name(i) for i in reduced.axes)
    out_axes, reduce_axes = infer_axes(out, over, given, trace.shapes, trace.reads, trace.paddings)
    reads = tuple(
        Read(r.operand, tuple(Index(i.terms, i.const) for i in r.index), r.fill)
        for r in trace.reads
    )
    body = reduced.body
    return Equation(
        out_axes, reduced.reduction if reduce_axes or reduced.reduction != "sum" else "none",
        reduce_axes, trace.shapes, reads, tuple(trace.positions), tuple(trace.guards), body,
    )  # fmt: skip


def _axis_name(index: Index) -> str:
    name = index.single_name
    if name is None:
        raise UserError(f"'{index}' is not an axis\ndefine[...] and sums run over plain axes")
    return name


@overload
def op(function: Callable[..., Definition], *, dtype: str | None = None) -> Op: ...
@overload
def op(
    function: None = None, *, dtype: str | None = None
) -> Callable[[Callable[..., Definition]], Op]: ...
def op(function: Callable[..., Definition] | None = None, *, dtype: str | None = None) -> Any:
    """Turn a function that writes one index equation into an op.

    Args:
        function: takes operands (and keyword attributes), returns ``define[axes](expression)``.
        dtype: element type of the result; by default that of the floating operands.
    """
    wanted = DType(dtype) if dtype is not None else None
    if function is None:
        return lambda f: Op(f, wanted)
    return Op(function, wanted)


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def result_dtype(name: str, inputs: Sequence[Node], names: str = LETTERS) -> DType:
    """The one floating type of the inputs; without one, their one integer type, else bool."""
    floats = {value.dtype for value in inputs if value.dtype.is_float}
    if len(floats) > 1:
        raise user_error(
            f"{name}: operands of different floating types", *describe(inputs, names),
            "cast one of them: gx.cast(value, 'float32')",
        )  # fmt: skip
    if floats:
        return floats.pop()
    whole = {value.dtype for value in inputs} - {DType.boolean}
    if len(whole) > 1:
        raise user_error(
            f"{name}: operands of different integer types", *describe(inputs, names),
            "cast one of them: gx.cast(value, 'int64')",
        )  # fmt: skip
    if whole:
        return whole.pop()
    if not inputs:
        raise CompilerBug(f"{name} without operands needs a dtype")
    return inputs[0].dtype


_layers: list[str] = []


def current_layer() -> str:
    """The innermost layer's full name, such as ``conv1_1``; empty outside of layers."""
    return _layers[-1] if _layers else ""


class layer_scope:
    """``with layer_scope("conv1_1"):`` names the layer of what is made inside; scopes nest."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        """Enter the layer."""
        _layers.append(f"{current_layer()}.{self.name}" if _layers else self.name)

    def __exit__(self, *_: object) -> None:
        """Leave the layer."""
        _layers.pop()
