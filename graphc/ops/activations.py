"""The non-linear functions of a network, one scalar body each."""

from __future__ import annotations

from typing import Any, Literal

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.scalar_functions import expm1, positive_part, select
from graphc.ir.scalar_functions import sigmoid as sigmoid_of
from graphc.ir.scalar_functions import softplus as softplus_of
from graphc.ops.elementwise import elementwise, floating
from graphc.ops.messages import brief

_CUBIC = sympy.Float("0.044715")


def relu(x: Node) -> Node:
    """max(x, 0); any shape. Written rule: relu'(0) = 0."""
    return elementwise("relu", positive_part, x)


def leaky_relu(x: Node, slope: float = 0.01) -> Node:
    """``x`` where x > 0, else slope * x; floating, any shape. Its derivative at 0 is the slope."""
    floating("leaky_relu", x)
    return elementwise("leaky_relu", _leaky_relu, x, slope)


def elu(x: Node, alpha: float = 1.0) -> Node:
    """``x`` where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015); floating, any shape."""
    floating("elu", x)
    return elementwise("elu", _elu, x, alpha)


def sigmoid(x: Node) -> Node:
    """1 / (1 + exp(-x)), without overflow; floating, any shape."""
    floating("sigmoid", x)
    return elementwise("sigmoid", sigmoid_of, x)


def tanh(x: Node) -> Node:
    """The hyperbolic tangent; floating, any shape."""
    floating("tanh", x)
    return elementwise("tanh", sympy.tanh, x)


def softplus(x: Node) -> Node:
    """log(1 + exp(x)), without overflow; floating, any shape."""
    floating("softplus", x)
    return elementwise("softplus", softplus_of, x)


def silu(x: Node) -> Node:
    """``x * sigmoid(x) (Elfwing et al``. 2017); floating, any shape."""
    floating("silu", x)
    return elementwise("silu", _silu, x)


def gelu(x: Node, approximate: Literal[False, "tanh"] = False) -> Node:
    """``x * Phi(x)``, Phi the normal distribution (Hendrycks and Gimpel 2016); floating, any shape.

    Args:
        x: floating value.
        approximate: "tanh" takes x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) instead of erf.

    Raises:
        UserError: ``approximate`` is neither False nor "tanh".
    """
    floating("gelu", x)
    if approximate is not False and not (isinstance(approximate, str) and approximate == "tanh"):
        raise user_error(f"gelu: approximate is {brief(approximate)}", "expected False or 'tanh'")
    return elementwise("gelu", _gelu_tanh if approximate else _gelu, x)


def _leaky_relu(x: Any, slope: Any) -> Any:
    return select(x > 0, x, slope * x)


def _elu(x: Any, alpha: Any) -> Any:
    return select(x > 0, x, alpha * expm1(x))


def _silu(x: Any) -> Any:
    return x * sigmoid_of(x)


def _gelu(x: Any) -> Any:
    return x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2


def _gelu_tanh(x: Any) -> Any:
    return x * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (x + _CUBIC * x**3))) / 2
