"""Toom-Cook algorithms: the identity, the programs of the transforms and the rounding error."""

import dataclasses
import os
import subprocess
import sys
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import CompilerBug
from graphc.ir.tiles import LinearProgram, LinearStep, Matrix, TileAlgorithm
from graphc.ir.types import DType
from graphc.passes.toom_cook import (
    applied,
    error_bound,
    prove,
    straight_line,
    tile_algorithm,
    transposed,
)

FORMS = [(m, r) for m in range(1, 8) for r in range(1, 8) if 2 <= m + r - 1 <= 8]
COMMON = [(2, 3), (4, 3), (5, 3), (6, 3), (4, 5), (2, 5), (6, 2), (2, 2), (4, 2), (4, 4)]


def transforms(algorithm: TileAlgorithm) -> dict[str, Matrix]:
    return {
        "input": algorithm.input,
        "filter": algorithm.filter,
        "output": algorithm.output,
        "output gradient": transposed(algorithm.output),
        "filter gradient": transposed(algorithm.filter),
    }


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_integers_are_convolved_exactly(outputs: int, taps: int) -> None:
    algorithm = tile_algorithm(outputs, taps)
    data = [Fraction(k * k - 3 * k + 1) for k in range(algorithm.size)]
    weights = [Fraction(2 * k - 3) for k in range(taps)]
    filters, tile = times(algorithm.filter, weights), times(algorithm.input, data)
    products = [x * y for x, y in zip(filters, tile, strict=True)]
    expected = [sum(weights[r] * data[i + r] for r in range(taps)) for i in range(outputs)]
    assert times(algorithm.output, products) == expected


def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum(x * y for x, y in zip(row, vector, strict=True)) for row in matrix]


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_the_data_meet_dyadic_numbers_only(outputs: int, taps: int) -> None:
    algorithm = tile_algorithm(outputs, taps)
    for row in (*algorithm.input, *algorithm.output):
        assert all(float(x) == x and np.float32(x) == x for x in row)


@pytest.mark.parametrize("name", ["input", "filter", "output"])
def test_a_broken_matrix_is_refused(name: str) -> None:
    algorithm = tile_algorithm(4, 3)
    matrix = getattr(algorithm, name)
    for i, row in enumerate(matrix):
        for k, x in enumerate(row):
            wrong = (*row[:k], x + Fraction(1, 1000), *row[k + 1 :])
            broken = dataclasses.replace(
                algorithm, **{name: (*matrix[:i], wrong, *matrix[i + 1 :])}
            )
            with pytest.raises(CompilerBug, match=r"F\(4, 3\) do not compute"):
                prove(broken)


@pytest.mark.parametrize(("outputs", "taps"), [(7, 3), (0, 3), (4, 0), (1, 1)])
def test_sizes_without_points_are_refused(outputs: int, taps: int) -> None:
    with pytest.raises(CompilerBug, match="no points"):
        tile_algorithm(outputs, taps)


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_programs_reproduce_the_matrices(outputs: int, taps: int) -> None:
    for matrix in transforms(tile_algorithm(outputs, taps)).values():
        program = straight_line(matrix)
        assert applied(program) == matrix
        for number, step in enumerate(program.steps):
            assert step.target == program.inputs + number
            assert all(value < step.target for _, value in step.terms)
        used = {value for step in program.steps for _, value in step.terms} | set(program.outputs)
        assert used >= {step.target for step in program.steps}, "a step that nothing needs"


@pytest.mark.parametrize(
    ("outputs", "taps", "counts"),
    [
        (2, 3, (4, 4, 4, 2, 5)),
        (4, 3, (12, 9, 12, 8, 11)),
        (6, 3, (24, 12, 20, 18, 15)),
    ],
)
def test_programs_are_short(outputs: int, taps: int, counts: tuple[int, ...]) -> None:
    matrices = transforms(tile_algorithm(outputs, taps)).values()
    for matrix, count in zip(matrices, counts, strict=True):
        assert straight_line(matrix).operations <= count


numbers = st.sampled_from([Fraction(x) for x in ("0", "0", "1", "-1", "2", "-1/2", "3/4", "1/3")])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[numbers] * n), min_size=1, max_size=6))
)
def test_any_matrix_without_zero_rows_has_a_program(rows: list[tuple[Fraction, ...]]) -> None:
    matrix = tuple(row for row in rows if any(row)) or ((Fraction(1),),)
    program = straight_line(matrix)
    assert applied(program) == matrix
    row_by_row = sum(straight_line((row,)).operations for row in matrix)
    assert program.operations <= row_by_row


def test_programs_refuse_what_they_cannot_do() -> None:
    with pytest.raises(CompilerBug, match="zero row"):
        straight_line(((Fraction(1), Fraction(2)), (Fraction(0), Fraction(0))))
    disordered = LinearProgram(1, (LinearStep(2, ((Fraction(1), 0),)),), (2,))
    with pytest.raises(CompilerBug, match="out of order"):
        applied(disordered)


def transform(matrices: list[Matrix], values: np.ndarray) -> np.ndarray:
    """Apply a matrix to each leading axis, step by step in the type of the values."""
    for axis, matrix in enumerate(matrices):
        program = straight_line(matrix)
        results = list(np.moveaxis(values, axis, 0))
        for step in program.steps:
            terms = [values.dtype.type(float(c)) * results[v] for c, v in step.terms]
            results.append(sum(terms[1:], terms[0]))
        values = np.moveaxis(np.stack([results[v] for v in program.outputs]), 0, axis)
    return values


def tiled(
    algorithms: list[TileAlgorithm], which: str, data: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """The result of one tile: data [size..., depth, n], filters or gradients [..., depth, k]."""
    outputs = [a.output for a in algorithms]
    filters = [a.filter for a in algorithms]
    if which == "filter":
        outputs, filters = [[transposed(x) for x in both] for both in (filters, outputs)]
    left, right = transform([a.input for a in algorithms], data), transform(filters, other)
    total = np.zeros((*left.shape[:-2], left.shape[-1], right.shape[-1]), data.dtype)
    for depth in range(data.shape[-2]):
        total += left[..., depth, :, None] * right[..., depth, None, :]
    return transform(outputs, total)


def direct(result: np.ndarray, data: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The same in float64 by the definition: result[o] = sum over x of other[x] * data[o + x]."""
    window = other.shape[:-2]
    axes = list(range(len(window) + 1))
    exact = np.empty(result.shape)
    for place in np.ndindex(result.shape[:-2]):
        part = data[tuple(slice(o, o + n) for o, n in zip(place, window, strict=True))]
        exact[place] = np.tensordot(part.astype(float), other.astype(float), (axes, axes))
    return exact


def relative_error(
    algorithms: list[TileAlgorithm], which: str, depth: int, kind: str, dtype: type = np.float32
) -> float:
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    window = [a.taps if which == "output" else a.outputs for a in algorithms]
    data = random.standard_normal([*(a.size for a in algorithms), depth, 24])
    if kind == "after relu":
        data = np.maximum(data, 0)
    if kind == "shifted":
        data += 3
    data, other = data.astype(dtype), random.standard_normal([*window, depth, 24]).astype(dtype)
    result = tiled(algorithms, which, data, other)
    exact = direct(result, data, other)
    return float(np.linalg.norm(result - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize(
    ("kind", "closeness"),
    [("normal", 6), ("after relu", 10), ("shifted", 30)],  # a large mean cancels in most points
)
@pytest.mark.parametrize("which", ["output", "filter"])
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3)])
def test_errors_stay_below_a_close_bound(
    outputs: int,
    taps: int,
    dimensions: int,
    which: Literal["output", "filter"],
    kind: str,
    closeness: float,
) -> None:
    algorithms = (tile_algorithm(outputs, taps),) * dimensions
    for depth in (16, 64, 256, 512):
        error = relative_error([*algorithms], which, depth, kind)
        bound = error_bound(algorithms, depth, which, DType.float32)
        print(f"depth {depth}: error {error:.2e}, bound {bound:.2e}")
        assert error < bound < closeness * error


@pytest.mark.parametrize("which", ["output", "filter"])
@pytest.mark.parametrize(("outputs", "taps"), COMMON)
def test_every_size_stays_below_a_close_bound(
    outputs: int, taps: int, which: Literal["output", "filter"]
) -> None:
    algorithms = (tile_algorithm(outputs, taps), tile_algorithm(2, 3))
    error = relative_error([*algorithms], which, 64, "normal")
    assert error < error_bound(algorithms, 64, which, DType.float32) < 10 * error


def test_the_bound_follows_the_precision_of_the_type() -> None:
    algorithms = (tile_algorithm(4, 3),) * 2
    single, double = (
        error_bound(algorithms, 64, "output", t) for t in (DType.float32, DType.float64)
    )
    assert double == single * 2.0**-29
    with pytest.raises(CompilerBug, match="no error bound"):
        error_bound(algorithms, 64, "output", DType.int32)


def test_shorter_factors_always_err_by_more_than_one_rounding() -> None:
    """Two roundings that do not shrink: why tiles of bfloat16 are multiplied in float32."""
    for outputs, taps in COMMON:
        for dimensions in (1, 2):
            algorithms = (tile_algorithm(outputs, taps),) * dimensions
            wide = error_bound(algorithms, 64, "output", DType.float32)
            short = error_bound(algorithms, 64, "output", DType.float32, DType.bfloat16)
            assert short > 2**0.5 * 2.0**-9 > 100 * wide


SCRIPT = """
from graphc.passes.toom_cook import straight_line, tile_algorithm
for outputs, taps in ((4, 3), (6, 3), (4, 5)):
    algorithm = tile_algorithm(outputs, taps)
    print(algorithm)
    print(straight_line(algorithm.input), straight_line(algorithm.filter))
"""


def test_every_process_derives_the_same() -> None:
    texts = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(texts) == 1 and "LinearProgram" in texts.pop()
