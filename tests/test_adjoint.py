"""The gather that is derived for any index map equals the scatter that defines the gradient."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.autodiff.adjoint import adjoint
from graphc.autodiff.solve import guard_holds
from graphc.evaluate import evaluate_equation
from graphc.ir.equation import Equation, Guard, Read, read_symbol
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.types import Axis

EXTENTS = {"i": 3, "j": 2, "r": 3, "s": 2}
AXES = {name: Axis(name, extent) for name, extent in EXTENTS.items()}


def value(index: Index, point: dict[str, Index]) -> int:
    return index.substitute(point).const


@st.composite
def affine(draw: st.DrawFn) -> Index:
    chosen = draw(st.lists(st.sampled_from(sorted(EXTENTS)), min_size=0, max_size=3, unique=True))
    index = constant(draw(st.integers(-2, 3)))
    for name in chosen:
        factor = draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2]))
        index = index + axis_index(name) * factor
    return index


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    index = draw(affine())
    kind = draw(st.sampled_from(["affine", "affine", "floor", "mod", "mixed"]))
    divisor = draw(st.integers(2, 4))
    if kind == "floor":
        return index // divisor
    if kind == "mod":
        return index % divisor
    return index // divisor * 2 + draw(affine()) if kind == "mixed" else index


@st.composite
def equations(draw: st.DrawFn) -> Equation:
    """A sum of a padded read of random extents times weights of the output's shape."""
    index = tuple(draw(st.lists(indexes(), min_size=1, max_size=3)))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=len(index), max_size=len(index))))
    inner, outer = draw(st.sampled_from([("rs", "ij"), ("r", "ijs"), ("", "jsri"), ("ijrs", "")]))
    out, over = (tuple(AXES[n] for n in names) for names in (outer, inner))
    guards = ()
    if draw(st.booleans()):
        guards = (Guard(draw(affine()), 0, 4, draw(st.sampled_from([1, 1, 2]))),)
    reads = (Read(0, index, 0.0), Read(1, tuple(axis_index(n) for n in "jr")))
    body = read_symbol(0) * read_symbol(1)
    kind = "sum" if over else "none"
    return Equation(out, kind, over, (shape, (2, 3)), reads, (), guards, body)


def scattered(equation: Equation, weights: np.ndarray, dout: np.ndarray) -> np.ndarray:
    """The definition: every position adds its term to the element that it read."""
    result = np.zeros(equation.operands[0])
    axes = (*equation.axes, *equation.reduce_axes)
    for place in itertools.product(*(range(a.extent) for a in axes)):
        point = {a.name: constant(p) for a, p in zip(axes, place, strict=True)}
        at = tuple(value(index, point) for index in equation.reads[0].index)
        inside = all(0 <= p < n for p, n in zip(at, result.shape, strict=True))
        if inside and all(holds(g, point) for g in equation.guards):
            weight = weights[tuple(value(index, point) for index in equation.reads[1].index)]
            result[at] += dout[place[: len(equation.axes)]] * weight
    return result


def holds(guard: Guard, point: dict[str, Index]) -> bool:
    n = value(guard.index, point)
    return 0 <= n < 4 and n % guard.divisor == 0


@settings(max_examples=200)
@given(equations(), st.integers(0, 2**32 - 1))
def test_a_gather_equals_its_scatter(equation: Equation, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weights = generator.normal(size=equation.operands[0]), generator.normal(size=(2, 3))
    dout = generator.normal(size=equation.shape)
    (gather,) = adjoint(equation, 0).gathers
    found = evaluate_equation(gather, [dout, x, weights], np.dtype("float64"))
    np.testing.assert_allclose(found, scattered(equation, weights, dout), rtol=0, atol=1e-12)


def test_an_axis_inside_its_own_quotient_stays_summed() -> None:
    i = axis_index("i")
    read = Read(0, (i + i // 2,), None)
    equation = Equation((AXES["i"],), "none", (), ((4,),), (read,), (), (), read_symbol(0))
    (gather,) = adjoint(equation, 0).gathers
    found = evaluate_equation(gather, [np.array([2.0, 3, 5]), np.zeros(4)], np.dtype("float64"))
    np.testing.assert_array_equal(found, [2, 3, 0, 5])


@pytest.mark.parametrize(("const", "holds"), [(0, True), (1, False)])
def test_an_odd_index_is_not_divisible_by_two(const: int, holds: bool) -> None:
    index = axis_index("i") * 2 + const
    assert guard_holds(Guard(index, divisor=2), EXTENTS) is holds
