"""Toom-Cook algorithms for short convolutions: derived over the rationals, proved, with their
rounding error and with straight-line programs for their transforms.

Multiplying polynomials by evaluation and interpolation (Toom 1963, Cook 1966), transposed, gives
the minimal filtering algorithms F(outputs, taps) of Winograd (1980), which Lavin and Gray (2016)
brought to convolutional networks; Barabasz et al. (2018) study the choice of points.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Literal

import sympy
from sympy.polys.rings import PolyElement, ring

from graphc.errors import CompilerBug
from graphc.ir.tiles import LinearProgram, LinearStep, Matrix, TileAlgorithm
from graphc.ir.types import DType

# The points of a size: infinity, +p and -p for every p, and zero where the size is even. Points
# decide the error: these grow it (``error_bound``) nearly least of dyadic ones with few digits.
_PAIRS = {
    2: (),
    3: ("1",),
    4: ("1",),
    5: ("1/2", "5/4"),
    6: ("3/4", "3/2"),
    7: ("1/4", "3/4", "7/4"),
    8: ("1/2", "1", "2"),
}

_UNIT_ROUNDOFF = {
    DType.float64: 2.0**-53, DType.float32: 2.0**-24, DType.float16: 2.0**-11,
    DType.bfloat16: 2.0**-9,
}  # fmt: skip

# A sum of coefficient * value; the keys are value numbers.
_Form = dict[int, Fraction]


def transposed(matrix: Matrix) -> Matrix:
    """Rows become columns."""
    return tuple(zip(*matrix, strict=True))


@cache
def tile_algorithm(outputs: int, taps: int) -> TileAlgorithm:
    """F(outputs, taps) at the points of its size, proved; outputs + taps - 1 is 2 to 8.

    With V_k the powers 0 .. k - 1 of the points (a row each, infinity takes the last power),
    polynomial multiplication is V_size^-1 ((V_outputs a) . (V_taps g)); its transpose in ``a``
    has A = V_outputs, G = V_taps and B^T the inverse transpose of V_size. The rows of B^T are the
    Lagrange polynomials; their denominators (but for signs), which alone are not powers of two,
    move into G, so that the data meet dyadic numbers only, exact in floating point.
    """
    size = outputs + taps - 1
    if min(outputs, taps) < 1 or size not in _PAIRS:
        raise CompilerBug(f"no points for F({outputs}, {taps})")
    points = _points(size)
    interpolation = _inverse_transposed(_powers(points, size))
    scales = [abs(next(x for x in reversed(row) if x)) for row in interpolation]
    algorithm = TileAlgorithm(
        outputs,
        taps,
        points,
        output=transposed(_powers(points, outputs)),
        filter=tuple(
            tuple(x * scale for x in row)
            for row, scale in zip(_powers(points, taps), scales, strict=True)
        ),
        input=tuple(
            tuple(x / scale for x in row) for row, scale in zip(interpolation, scales, strict=True)
        ),
    )
    prove(algorithm)
    return algorithm


def _points(size: int) -> tuple[Fraction | None, ...]:
    pairs = [sign * Fraction(point) for point in _PAIRS[size] for sign in (1, -1)]
    zero = [] if size % 2 else [Fraction(0)]
    return (*zero, *pairs, None)


def _powers(points: Sequence[Fraction | None], count: int) -> Matrix:
    """Powers 0 .. count - 1 of every point; at infinity only the last one counts."""
    infinity = (*[Fraction(0)] * (count - 1), Fraction(1))
    return tuple(infinity if p is None else tuple(p**k for k in range(count)) for p in points)


def _inverse_transposed(matrix: Matrix) -> Matrix:
    numbers = [[sympy.Rational(x.numerator, x.denominator) for x in row] for row in matrix]
    inverse = sympy.Matrix(numbers).inv()
    return tuple(
        tuple(Fraction(int(x.p), int(x.q)) for x in inverse.col(column))
        for column in range(len(matrix))
    )


def prove(algorithm: TileAlgorithm) -> None:
    """Raise a CompilerBug unless the matrices compute the convolution, for all data and filters.

    Both sides of sum over i, r of a_i g_r d_(i+r) = sum over p of (A a)_p (G g)_p (B^T d)_p are
    expanded as polynomials over the rationals in the symbols a, g and d and compared. The
    identity holds in every a at once, so it proves the output form and both its gradients.
    """
    outputs, taps, size = algorithm.outputs, algorithm.taps, algorithm.size
    names = [
        f"{n}{k}" for n, count in (("a", outputs), ("g", taps), ("d", size)) for k in range(count)
    ]
    polynomials, *symbols = ring(names, sympy.QQ)
    a, g, d = symbols[:outputs], symbols[outputs:-size], symbols[-size:]
    convolution = polynomials(0)
    for i in range(outputs):
        for r in range(taps):
            convolution += a[i] * g[r] * d[i + r]
    products = zip(
        _forms(transposed(algorithm.output), a),
        _forms(algorithm.filter, g),
        _forms(algorithm.input, d),
        strict=True,
    )
    computed = sum((x * y * z for x, y, z in products), polynomials(0))
    if computed != convolution:
        raise CompilerBug(f"the matrices of F({outputs}, {taps}) do not compute a convolution")


def _forms(matrix: Matrix, symbols: Sequence[PolyElement]) -> list[PolyElement]:
    """The linear form of every row."""
    zero = symbols[0] * 0
    return [
        sum(
            (s * sympy.QQ(x.numerator, x.denominator) for x, s in zip(row, symbols, strict=True)),
            zero,
        )
        for row in matrix
    ]


def error_bound(
    algorithms: tuple[TileAlgorithm, ...],
    depth: int,
    which: Literal["output", "filter"],
    dtype: DType,
    factors: DType | None = None,
) -> float:
    """Relative L2 error of a tiled convolution with one algorithm for every dimension.

    ``which`` is the result: "output" is A^T ((G g) . (B^T d)), "filter" is its gradient
    G^T ((A a) . (B^T d)); ``depth`` products are added in one running sum at every point.
    Model: all numbers are independent; g (or a) has zero mean, d any mean. At a point with rows
    A_p, G_p, B_p the rms of one product is |G_p| max(|B_p|, |sum of B_p|), and every rounding is
    an independent error of at most u times the rms of the sum so far: n + 1 roundings for a
    transform with n terms (products, additions, constants), an rms share depth/2 for the running
    sum. The inverse transform adds the errors of all points as squares, and the exact result has
    rms sqrt(depth * taps), or sqrt(depth * outputs): in both forms a dimension multiplies the
    error by growth = sqrt(sum over p of |A_p|^2 |G_p|^2 max(...)^2 / (outputs * taps)).
    Where both ``factors`` of a product are first rounded to a shorter type, that adds two of its
    roundings, which grow alike.
    """
    if not algorithms or depth < 1 or not dtype.is_float:
        raise CompilerBug(f"no error bound for depth {depth}, {dtype.value}, {algorithms}")
    shorter = 0.0 if factors is None else 2 * _UNIT_ROUNDOFF[factors] ** 2
    roundings = depth / 2 + sum(_roundings(algorithm, which) for algorithm in algorithms)
    growth = math.prod(_growth(algorithm) for algorithm in algorithms)
    return math.sqrt(_UNIT_ROUNDOFF[dtype] ** 2 * roundings + shorter) * growth


def _growth(algorithm: TileAlgorithm) -> float:
    """The rms of what is summed over the rms of the exact result, for one dimension."""
    total = Fraction(0)
    rows = zip(transposed(algorithm.output), algorithm.filter, algorithm.input, strict=True)
    for output, taps, data in rows:
        total += _square(output) * _square(taps) * max(_square(data), sum(data) ** 2)
    return math.sqrt(total / (algorithm.outputs * algorithm.taps))


def _square(row: Sequence[Fraction]) -> Fraction:
    return sum((x * x for x in row), Fraction(0))


def _roundings(algorithm: TileAlgorithm, which: Literal["output", "filter"]) -> int:
    """Roundings on the longest way through the three transforms."""
    matrices = [algorithm.input, algorithm.filter, algorithm.output]
    if which == "filter":
        matrices[1:] = map(transposed, matrices[1:])
    return sum(1 + max(len(row) - row.count(Fraction(0)) for row in m) for m in matrices)


@cache
def straight_line(matrix: Matrix) -> LinearProgram:
    """A program of few operations for ``matrix`` times a vector; no row may be zero.

    Greedy elimination of common pairs (Paar 1997), up to scale: two values that stand in most
    rows in the same ratio become a value of their own. The rows of points +p and -p so share
    their even and their odd part. Exact over the rationals, which is proved; in floating point
    another order of additions.
    """
    rows = [{value: x for value, x in enumerate(row) if x} for row in matrix]
    if not rows or not all(rows):
        raise CompilerBug("a zero row needs no program")
    inputs = len(matrix[0])
    shared = _share_pairs(rows, inputs)
    _inline_single_uses(rows, shared)
    _rescale(rows, shared)
    program = _number(rows, shared, inputs)
    if applied(program) != matrix:
        raise CompilerBug("a straight-line program differs from its matrix")
    return program


def applied(program: LinearProgram) -> Matrix:
    """The matrix that a program multiplies by: its outputs for every unit vector."""
    units = range(program.inputs)
    values = [tuple(Fraction(int(i == k)) for k in units) for i in units]
    for step in program.steps:
        if step.target != len(values):
            raise CompilerBug(f"step {step.target} of a straight-line program is out of order")
        values.append(
            tuple(sum(c * values[v][k] for c, v in step.terms) + Fraction(0) for k in units)
        )
    return tuple(values[output] for output in program.outputs)


def _share_pairs(rows: list[_Form], inputs: int) -> dict[int, _Form]:
    """Replace pairs that several rows hold in one ratio by new values, which are returned."""
    shared: dict[int, _Form] = {}
    while True:
        counts: Counter[tuple[int, int, Fraction]] = Counter()
        for row in rows:
            values = sorted(row)
            counts.update(
                (i, k, row[k] / row[i]) for n, i in enumerate(values) for k in values[n + 1 :]
            )
        count, (i, k, ratio) = max(
            ((count, pair) for pair, count in counts.items()),
            key=lambda item: (item[0], abs(item[1][2]) == 1, [-x for x in item[1]]),
            default=(0, (0, 0, Fraction(0))),
        )
        if count < 2:
            return shared
        new = inputs + len(shared)
        shared[new] = {i: Fraction(1), k: ratio}
        for row in rows:
            if i in row and k in row and row[k] == ratio * row[i]:
                row[new] = row.pop(i)
                del row[k]


def _inline_single_uses(rows: list[_Form], shared: dict[int, _Form]) -> None:
    """Put a shared value that one form alone uses back into that form: one longer chain."""
    for value in list(shared):
        users = [form for form in (*rows, *shared.values()) if value in form]
        if len(users) == 1:
            scale = users[0].pop(value)
            users[0].update({v: scale * x for v, x in shared.pop(value).items()})


def _rescale(rows: list[_Form], shared: dict[int, _Form]) -> None:
    """Scale shared values as long as that saves multiplications or shortens the constants."""
    forms = [*rows, *shared.values()]
    best, improved = _cost(forms), True
    while improved:
        improved = False
        for value, form in shared.items():
            uses = {user[value] for user in forms if value in user}
            for scale in sorted(uses | {1 / x for x in form.values()}):
                _scale(value, form, forms, scale)
                cost = _cost(forms)
                if cost < best:
                    best, improved = cost, True
                    break
                _scale(value, form, forms, 1 / scale)


def _scale(value: int, form: _Form, forms: list[_Form], scale: Fraction) -> None:
    for v in form:
        form[v] *= scale
    for user in forms:
        if value in user:
            user[value] /= scale


def _cost(forms: list[_Form]) -> tuple[int, int, int, int]:
    """Operations, constants that are not exact in binary, digits, minus signs."""
    constants = [x for form in forms for x in form.values()]
    inexact = sum(x.denominator & (x.denominator - 1) != 0 for x in constants)
    digits = sum(x.numerator.bit_length() + x.denominator.bit_length() for x in constants)
    signs = sum(x < 0 for x in constants)
    steps = [_step(0, form) for form in forms if not _is_value(form)]
    return sum(step.operations for step in steps), inexact, digits, signs


def _is_value(form: _Form) -> bool:
    """Whether a form is another value as it stands, which needs no step."""
    return list(form.values()) == [1]


def _step(target: int, form: _Form) -> LinearStep:
    """The terms in the order of the chain: one that needs no multiplication first."""
    order = sorted(form, key=lambda value: (form[value] != 1, form[value] != -1, value))
    return LinearStep(target, tuple((form[value], value) for value in order))


def _number(rows: list[_Form], shared: dict[int, _Form], inputs: int) -> LinearProgram:
    """Steps row by row, each shared value just before the first row that needs it."""
    places = {value: value for value in range(inputs)}
    steps: list[LinearStep] = []
    outputs = []
    for row in rows:
        for value in _needed(row, shared):
            if value not in places:
                places[value] = inputs + len(steps)
                renamed = {places[v]: x for v, x in shared[value].items()}
                steps.append(_step(places[value], renamed))
        if _is_value(row):
            outputs.append(places[next(iter(row))])
            continue
        outputs.append(inputs + len(steps))
        steps.append(_step(outputs[-1], {places[v]: x for v, x in row.items()}))
    return LinearProgram(inputs, tuple(steps), tuple(outputs))


def _needed(row: _Form, shared: dict[int, _Form]) -> list[int]:
    """The shared values that a row rests on, in the order they were made, which is a valid one."""
    needed: set[int] = set()
    pending = [value for value in row if value in shared]
    while pending:
        value = pending.pop()
        needed.add(value)
        pending += [v for v in shared[value] if v in shared and v not in needed]
    return sorted(needed)
