"""Convolutions and their derived gradients against PyTorch in float64."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graphc.autodiff.backward import gradients
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Node
from graphc.ops.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from graphc.ops.leaves import input, parameter
from graphc.ops.reductions import sum as total

Function = Callable[..., Any]
OURS = {1: conv1d, 2: conv2d, 3: conv3d}
THEIRS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
OUR_TRANSPOSES = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}
THEIR_TRANSPOSES = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}


def compare(
    ours: Function,
    theirs: Function,
    shapes: tuple[tuple[int, ...], ...],
    generator: np.random.Generator,
    **settings: Any,
) -> None:
    """Value and all gradients of sum(seed * f(operands)) agree to 1e-9 of the largest element."""
    arrays = [generator.standard_normal(shape) for shape in shapes]
    nodes = [parameter(f"p{n}", a.shape, dtype="float64") for n, a in enumerate(arrays)]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, expected = ours(*nodes, **settings), theirs(*tensors, **settings)
    assert y.shape == tuple(expected.shape)
    seed = generator.standard_normal(y.shape)
    expected.backward(torch.tensor(seed))
    weight = input("seed", y.shape, "float64")
    feeds: dict[Node | str, np.ndarray] = dict(zip(nodes, arrays, strict=True))
    feeds["seed"] = seed
    found = evaluate([y, *gradients(total(y * weight), nodes)], feeds)
    wanted = [expected.detach(), *(t.grad for t in tensors)]
    for value, reference in zip(found, wanted, strict=True):
        scale = np.abs(reference.numpy()).max()
        np.testing.assert_allclose(value, reference.numpy(), rtol=1e-9, atol=1e-9 * scale)


SETTINGS = list(itertools.product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2, 4)))


@pytest.mark.parametrize(("stride", "dilation", "padding", "groups"), SETTINGS)
def test_conv2d(
    stride: int, dilation: int, padding: int, groups: int, seeded: np.random.Generator
) -> None:
    compare(
        conv2d, torch.conv2d, ((2, 4, 7, 6), (4, 4 // groups, 3, 2), (4,)), seeded,
        stride=stride, dilation=dilation, padding=padding, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize(("stride", "dilation", "padding", "groups"), SETTINGS)
def test_conv_transpose2d(
    stride: int, dilation: int, padding: int, groups: int, seeded: np.random.Generator
) -> None:
    compare(
        conv_transpose2d, torch.conv_transpose2d, ((2, 4, 4, 3), (4, 4 // groups, 3, 4), (4,)),
        seeded, stride=stride, dilation=dilation, padding=padding, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("rank", (1, 3))
@pytest.mark.parametrize(("stride", "dilation", "padding", "groups"), [(1, 1, 1, 1), (2, 1, 1, 2)])
def test_conv_of_other_ranks(
    rank: int, stride: int, dilation: int, padding: int, groups: int, seeded: np.random.Generator
) -> None:
    settings = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    places, window = (6, 5, 4)[:rank], (3, 2, 3)[:rank]
    shapes = ((2, 4, *places), (4, 4 // groups, *window), (4,))
    compare(OURS[rank], THEIRS[rank], shapes, seeded, **settings)
    compare(OUR_TRANSPOSES[rank], THEIR_TRANSPOSES[rank], shapes, seeded, **settings)


def test_depthwise_with_a_multiplier(seeded: np.random.Generator) -> None:
    compare(conv2d, torch.conv2d, ((2, 3, 5, 5), (6, 1, 3, 3), (6,)), seeded, groups=3, padding=1)


def test_settings_for_each_dimension(seeded: np.random.Generator) -> None:
    compare(
        conv2d, torch.conv2d, ((2, 3, 8, 9), (4, 3, 3, 2), (4,)), seeded,
        stride=(1, 3), padding=(2, 1), dilation=(2, 1),
    )  # fmt: skip


@pytest.mark.parametrize(("stride", "output_padding"), [(2, 1), (3, 2), ((2, 3), (1, 0))])
def test_output_padding(stride: Any, output_padding: Any, seeded: np.random.Generator) -> None:
    compare(
        conv_transpose2d, torch.conv_transpose2d, ((2, 3, 4, 3), (3, 4, 3, 3), (4,)), seeded,
        stride=stride, output_padding=output_padding, padding=1,
    )  # fmt: skip


def test_same_padding(seeded: np.random.Generator) -> None:
    compare(conv2d, torch.conv2d, ((1, 2, 6, 5), (3, 2, 4, 3)), seeded, padding="same", dilation=2)


def test_same_padding_with_a_stride_has_ceil_places() -> None:
    w = parameter("w", (3, 2, 3, 3))
    assert conv2d(input("x", (1, 2, 7, 8)), w, stride=2, padding="same").shape == (1, 3, 4, 4)


def test_pairs_of_paddings() -> None:
    w = parameter("w", (3, 2, 3, 3))
    y = conv2d(input("x", (1, 2, 7, 8)), w, padding=((0, 1), (2, 3)))
    assert y.shape == (1, 3, 6, 11)


def test_a_transposed_convolution_is_the_adjoint_of_the_convolution() -> None:
    """<conv(x), y> = <x, conv_transpose(y)> gives the same gather for both, guards and all."""
    x = parameter("x", (2, 3, 9, 9), dtype="float64")
    w = parameter("w", (4, 3, 3, 3), dtype="float64")
    y = input("y", (2, 4, 4, 4), "float64")
    (dx,) = gradients(total(conv2d(x, w, stride=2) * y), [x])
    z = conv_transpose2d(y, w, stride=2)
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(n.shape) for n in (x, w, y)}
    np.testing.assert_allclose(*evaluate([dx, z], feeds), rtol=1e-12)


def test_one_group_needs_no_reshape() -> None:
    y = conv2d(input("x", (1, 4, 5, 5)), parameter("w", (6, 4, 3, 3)))
    assert [n.kind for n in y.inputs] == ["input", "parameter"]


def test_the_gradient_of_a_transposed_convolution_sums_over_the_window_alone() -> None:
    """Its own guard makes the quotient exact: the derived dx is the strided convolution."""
    x, w = parameter("x", (1, 3, 4, 4)), parameter("w", (3, 2, 3, 3))
    (dx,) = gradients(total(conv_transpose2d(x, w, stride=2, padding=1)), [x])
    assert dx.op_equation().points == 1 * 3 * 4 * 4 * 2 * 3 * 3
    assert all(guard.divisor == 1 for guard in dx.op_equation().guards)


X, W = (1, 4, 5, 5), (6, 4, 3, 3)


@pytest.mark.parametrize(
    ("x", "w", "settings", "message"),
    [
        ((4, 5, 5), W, {}, "conv2d: x must have 4 dimensions, here 3"),
        (X, (6, 4, 3), {}, "conv2d: w must have 4 dimensions, here 3"),
        (X, (6, 3, 3, 3), {}, "w's dimension 1 must be x's channels, here 3 and 4"),
        (X, W, {"stride": 0}, "stride is 0"),
        (X, W, {"stride": (1, 2, 3)}, "stride is (1, 2, 3)"),
        (X, W, {"dilation": -1}, "dilation is -1"),
        (X, W, {"groups": 0}, "groups is 0"),
        (X, (6, 2, 3, 3), {"groups": 3}, "3 groups do not divide 4 channels"),
        (X, (5, 2, 3, 3), {"groups": 2}, "2 groups do not divide 5 channels"),
        (X, W, {"padding": -1}, "expected an integer of at least 0"),
        (X, W, {"padding": "some"}, "expected 'same', 'valid' or numbers"),
        (X, (6, 4, 7, 3), {}, "dimension 2: the window spans 7, the array 5 with padding 0 + 0"),
        (X, W, {"dilation": (1, 3)}, "dimension 3: the window spans 7"),
    ],
)
def test_errors(
    x: tuple[int, ...], w: tuple[int, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        conv2d(input("x", x), parameter("w", w), **settings)
    assert message in str(caught.value)
    assert str(caught.value).startswith("test_convolution.py:")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_padding": 1}, "expected less than the stride or the dilation"),
        ({"padding": 4}, "the padding cuts everything away"),
        ({"padding": "same"}, "padding is 'same', which has no meaning here"),
        ({"groups": 3}, "3 groups do not divide 4 channels"),
    ],
)
def test_errors_of_the_transpose(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        conv_transpose2d(input("x", (1, 4, 5, 5)), parameter("w", (4, 2, 3, 3)), **settings)
    assert message in str(caught.value)


def test_the_bias_must_fit() -> None:
    with pytest.raises(UserError, match=r"b must have shape .6., one number for each channel"):
        conv2d(input("x", X), parameter("w", W), parameter("b", (5,)))
