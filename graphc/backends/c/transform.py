"""Constant matrices applied to every dimension of a tile: straight-line vector code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product

from graphc.backends.c.mapping import literal
from graphc.ir.tiles import LinearProgram, LinearStep
from graphc.ir.types import DType

Position = tuple[int, ...]


def transform_lines(
    programs: Sequence[LinearProgram], dtype: DType,
    load: Callable[[Position], str], store: Callable[[Position, str], str],
) -> list[str]:  # fmt: skip
    """Load every position, apply one program along each dimension in turn, store the results."""
    lines: list[str] = []
    names: dict[Position, str] = {}
    sizes = [range(p.inputs) for p in programs]
    for dimension, program in enumerate(programs):
        results: dict[Position, str] = {}
        done = [range(len(p.outputs)) for p in programs[:dimension]]
        for rest in product(*done, *sizes[dimension + 1 :]):
            before, after = rest[:dimension], rest[dimension:]
            places = [(*before, i, *after) for i in sizes[dimension]]
            if dimension == 0:
                for place in places:
                    names[place] = _fresh(lines, load(place))
            outputs = _apply(lines, program, [names[p] for p in places], dtype)
            for number, name in enumerate(outputs):
                results[(*before, number, *after)] = name
                if dimension == len(programs) - 1:
                    lines.append(store((*before, number, *after), name))
        names = results
    return lines


def _fresh(lines: list[str], value: str) -> str:
    name = f"v{len(lines)}"
    lines.append(f"const vector {name} = {value};")
    return name


def _apply(
    lines: list[str], program: LinearProgram, inputs: Sequence[str], dtype: DType
) -> list[str]:
    values = list(inputs)
    for step in program.steps:
        values.append(_fresh(lines, _sum_text(step, values, dtype)))
    return [values[output] for output in program.outputs]


def _sum_text(step: LinearStep, values: Sequence[str], dtype: DType) -> str:
    text = ""
    for coefficient, value in step.terms:
        size = abs(coefficient)
        term = values[value] if size == 1 else f"{values[value]}*{_number(size, dtype)}"
        sign = "-" if coefficient < 0 else ("+" if text else "")
        text += f" {sign} {term}" if text else f"{sign}{term}"
    return text


def _number(value: Fraction, dtype: DType) -> str:
    return literal(float(value), dtype)
