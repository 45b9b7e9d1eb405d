"""Tiled convolutions by Toom-Cook: the matrices of one dimension and programs that apply them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class LinearStep:
    """Value ``target`` is the sum of coefficient * value over ``terms``, printed in that order."""

    target: int
    terms: tuple[tuple[Fraction, int], ...]

    @property
    def operations(self) -> int:
        """Additions and fused multiply-adds of the chain; a first product counts, a sign not."""
        unit = any(abs(coefficient) == 1 for coefficient, _ in self.terms)
        return max(1, len(self.terms) - unit)


@dataclass(frozen=True)
class LinearProgram:
    """A constant matrix times a vector, straight down: values 0 .. inputs - 1 are the vector.

    Every step makes the next value; ``outputs`` are value numbers, an input's own where it may be.
    """

    inputs: int
    steps: tuple[LinearStep, ...]
    outputs: tuple[int, ...]

    @property
    def operations(self) -> int:
        """Additions and fused multiply-adds for one vector."""
        return sum(step.operations for step in self.steps)


@dataclass(frozen=True)
class TileAlgorithm:
    """F(outputs, taps): y[i] = sum over r of g[r] * d[i + r], with ``size`` products.

    y = A^T ((G g) . (B^T d)), where ``output`` is A^T (outputs x size), ``filter`` is G
    (size x taps) and ``input`` is B^T (size x size). Row p belongs to the interpolation point
    ``points[p]``; None is infinity.
    """

    outputs: int
    taps: int
    points: tuple[Fraction | None, ...]
    output: Matrix
    filter: Matrix
    input: Matrix

    @property
    def size(self) -> int:
        """Length of the input tile, and the number of products."""
        return self.outputs + self.taps - 1
