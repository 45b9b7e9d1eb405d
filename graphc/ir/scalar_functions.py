"""Scalar primitives that sympy lacks, or whose derivative it would print unstable or wrong."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Abs, Expr, Function, Integer, cos, erf, exp, log, sign, sin, sqrt, tanh

__all__ = [
    "Abs", "cos", "detach", "erf", "exp", "expm1", "log", "positive_part", "select", "sigmoid",
    "sign", "sin", "softplus", "sqrt", "tanh", "uniform",
]  # fmt: skip


class detach(Function):
    """Its argument, through which no gradient flows: the shift of a softmax."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Expr:
        """Zero, by definition."""
        return Integer(0)


class sigmoid(Function):
    """1 / (1 + exp(-x)), evaluated without overflow."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Expr:
        """sigmoid(x) * (1 - sigmoid(x))."""
        return self * (1 - self)


class softplus(Function):
    """log(1 + exp(x)), evaluated without overflow."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Expr:
        """sigmoid(x)."""
        return sigmoid(self.args[0])


class expm1(Function):
    """exp(x) - 1, exact near zero."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Expr:
        """exp(x)."""
        return exp(self.args[0])


class uniform(Function):
    """Philox4x32-10 uniform number in [0, 1): uniform(seed, step, stream, counter).

    Counter-based (Salmon et al. 2011): the value depends on its four integers alone, never on the
    order of evaluation, so that every backend and thread count draws the same numbers.
    """

    nargs = 4

    def fdiff(self, argindex: int = 1) -> Expr:
        """Zero: its arguments are integers."""
        return Integer(0)


def positive_part(x: Any) -> Expr:
    """max(x, 0) with the written rule relu'(0) = 0; NaN stays NaN."""
    return sympy.Piecewise((Integer(0), x <= 0), (x, True))


def select(condition: Any, yes: Any, no: Any) -> Expr:
    """Yes where the condition holds, else no."""
    return sympy.Piecewise((yes, condition), (no, True))
