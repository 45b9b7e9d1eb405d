"""What layers keep and draw: running statistics, dropout masks, first values, pooled windows."""

import math

import numpy as np
import pytest
import torch

from graphc.autodiff.backward import gradients
from graphc.dsl import init
from graphc.dsl.layers import (
    Activation,
    BatchNorm2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
    Sequential,
)
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Node, topological
from graphc.ops.activations import tanh
from graphc.ops.effects import assign, effects_of
from graphc.ops.leaves import input, parameter, state
from graphc.ops.losses import cross_entropy
from graphc.ops.normalization import batch_norm
from graphc.ops.pooling import lp_pool2d, max_pool2d, mean_pool2d
from graphc.ops.random import dropout, step_counter
from graphc.ops.reductions import sum as total
from graphc.ops.resample import downsample, pad, upsample


def assigned(root: Node) -> dict[str, Node]:
    return {a.state.label: a.value for a in effects_of(topological([root]))}


def test_running_statistics_move_as_in_torch(seeded: np.random.Generator) -> None:
    layer, x = BatchNorm2d("norm", 3, dtype="float64"), input("x", (4, 3, 5, 2), "float64")
    ours = assigned(layer(x, training=True))
    assert list(ours) == ["norm.running_mean", "norm.running_var"]
    data, mean, var = (seeded.uniform(0.5, 2, shape) for shape in (x.shape, (3,), (3,)))
    feeds = {x: data, layer.running_mean: mean, layer.running_var: var}
    found = evaluate(list(ours.values()), feeds)
    theirs = [torch.tensor(mean), torch.tensor(var)]
    torch.nn.functional.batch_norm(torch.tensor(data), *theirs, training=True, momentum=0.1)
    for mine, other in zip(found, theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=1e-12)


def test_a_fixed_batch_norm_has_no_effects() -> None:
    layer, x = BatchNorm2d("norm", 3), input("x", (4, 3, 5, 2))
    assert assigned(layer(x)) == {}


def test_effects_of_the_same_call_are_one() -> None:
    layer, x = BatchNorm2d("norm", 3), input("x", (4, 3, 5, 2))
    assert layer(x, training=True) is layer(x, training=True)
    assert len(effects_of(topological([layer(x, training=True)]))) == 2


def test_two_values_for_one_state_are_refused() -> None:
    layer, x = BatchNorm2d("norm", 3), input("x", (4, 3, 5, 2))
    twice = layer(layer(x, training=True), training=True)
    with pytest.raises(UserError, match="would get two values in one step"):
        effects_of(topological([twice]))


def test_an_assignment_must_fit_its_state() -> None:
    x = input("x", (3,))
    with pytest.raises(UserError, match="does not fit the state"):
        assign(state("s", (2,), 0.0), x, when=x)
    with pytest.raises(UserError, match="neither a state nor a parameter"):
        assign(x, x, when=x)


def test_a_batch_of_one_element_a_channel_has_no_variance() -> None:
    layer = BatchNorm2d("norm", 3)
    with pytest.raises(UserError, match="one element a channel has no variance"):
        layer(input("x", (1, 3)), training=True)
    with pytest.raises(UserError, match="x has 4 channels"):
        layer(input("x", (2, 4)), training=True)


def drawn(node: Node, x: Node, data: np.ndarray, step: int = 0) -> np.ndarray:
    return evaluate([node], {x: data, step_counter(): np.array(step)})[0]


def test_dropout_keeps_the_expected_share_and_the_mean() -> None:
    x = input("x", (100, 200), "float64")
    y = drawn(dropout(x, 0.3, training=True), x, np.ones(x.shape))
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)


def test_dropout_masks_differ_by_step_seed_and_stream_and_repeat() -> None:
    x = input("x", (8, 50), "float64")
    ones = np.ones(x.shape)
    first = dropout(x, training=True, seed=1, stream=2)
    others = [
        drawn(first, x, ones, step=1),
        drawn(dropout(x, training=True, seed=2, stream=2), x, ones),
        drawn(dropout(x, training=True, seed=1, stream=3), x, ones),
    ]
    mask = drawn(first, x, ones)
    np.testing.assert_array_equal(mask, drawn(first, x, ones))
    assert all((mask != other).mean() > 0.3 for other in others)


def test_default_streams_differ_along_a_model_and_do_not_depend_on_the_batch() -> None:
    def masks(batch: int) -> list[np.ndarray]:
        x = input("x", (batch, 64), "float64")
        one = dropout(x, training=True)
        two = dropout(tanh(x), training=True)
        return [drawn(node, x, np.ones(x.shape))[:4] != 0 for node in (one, two)]

    one, two = masks(4)
    assert (one != two).mean() > 0.3
    np.testing.assert_array_equal(masks(4), masks(8))


def test_the_gradient_of_dropout_uses_the_same_mask() -> None:
    x = input("x", (10, 20), "float64")
    y = dropout(x, 0.4, training=True, stream=1)
    (dx,) = gradients(total(y), [x])
    ones = np.ones(x.shape)
    np.testing.assert_array_equal(drawn(dx, x, ones), drawn(y, x, ones))


def test_dropout_counts_the_steps() -> None:
    x = input("x", (4,))
    ours = assigned(dropout(dropout(x, training=True), training=True))
    assert list(ours) == ["step"]
    assert evaluate([ours["step"]], {step_counter(): np.array(41)}) == [42]


def test_dropout_without_training_is_nothing() -> None:
    x = input("x", (4,))
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0, training=True) is x
    with pytest.raises(UserError, match="0 <= rate < 1"):
        dropout(x, 1.0, training=True)


@pytest.mark.parametrize(
    ("start", "shape", "deviation"),
    [
        (init.he_normal(), (200, 300), math.sqrt(2 / 300)),
        (init.he_normal(), (64, 32, 3, 3), math.sqrt(2 / (32 * 9))),
        (init.he_normal(fan="out"), (64, 32, 3, 3), math.sqrt(2 / (64 * 9))),
        (init.he_uniform(), (200, 300), math.sqrt(2 / 300)),
        (init.xavier_normal(), (200, 300), math.sqrt(2 / 500)),
        (init.xavier_uniform(), (200, 300), math.sqrt(2 / 500)),
        (init.normal(0.01), (200, 300), 0.01),
        (init.uniform(-1, 1), (200, 300), math.sqrt(1 / 3)),
        (init.constant(3.0), (20, 30), 0.0),
        (init.zeros(), (20, 30), 0.0),
    ],
)
def test_deviations_of_initialisers(
    start, shape: tuple[int, ...], deviation: float, seeded: np.random.Generator
) -> None:
    value = start(shape, seeded)
    assert value.shape == shape and value.dtype.kind == "f"
    assert value.std() == pytest.approx(deviation, rel=0.03)


def test_layers_compose_and_name_their_parameters() -> None:
    net = Sequential(
        [
            Conv2d("conv", 3, 4, 3, padding=1, bias=False),
            LocalResponseNorm("response"),
            BatchNorm2d("norm", 4),
            ReLU("relu"),
            MaxPool2d("pool", 2),
            Flatten("flatten"),
            Dropout("drop", 0.5),
            Activation("squash", tanh),
            Dense("fc", 4 * 4 * 4, 10),
        ],
        name="net",
    )
    logits = net(input("x", (2, 3, 8, 8)), training=True)
    assert logits.shape == (2, 10) and logits.layer == "net.fc"
    labels = ["conv.weight", "norm.weight", "norm.bias", "fc.weight", "fc.bias"]
    assert [p.label for p in net.parameters] == labels
    assert [s.label for s in net.states] == ["norm.running_mean", "norm.running_var"]


def slope(build, x: list) -> np.ndarray:
    node = input("x", np.shape(x), "float64")
    return evaluate(gradients(total(build(node)), [node]), {node: np.array(x, float)})[0]


def test_of_equal_values_in_a_window_the_first_gets_the_gradient() -> None:
    image = [[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]]
    halves = slope(lambda x: max_pool2d(x, 2), image)[0, 0]
    np.testing.assert_array_equal(halves, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    overlapping = slope(lambda x: max_pool2d(x, 2, stride=1), image)[0, 0]
    np.testing.assert_array_equal(overlapping, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_padding_never_wins_a_maximum() -> None:
    image = -np.ones((1, 1, 4, 4))
    np.testing.assert_array_equal(
        slope(lambda x: max_pool2d(x, 3, stride=2, padding=1), image.tolist()).sum(), 4
    )


def test_a_window_of_zeros_has_norm_and_gradient_zero() -> None:
    zeros = np.zeros((1, 1, 2, 2)).tolist()
    np.testing.assert_array_equal(slope(lambda x: lp_pool2d(x, 2), zeros), np.zeros((1, 1, 2, 2)))


def test_downsampling_and_upsampling_are_each_other_s_gradient(
    seeded: np.random.Generator,
) -> None:
    small, large = input("s", (1, 2, 3, 4), "float64"), input("l", (1, 2, 6, 8), "float64")
    (up,) = gradients(total(downsample(large, 2) * small), [large])
    (down,) = gradients(total(upsample(small, 2) * large), [small])
    feeds = {node: seeded.standard_normal(node.shape) for node in (small, large)}
    found = evaluate([up, upsample(small, 2), down, downsample(large, 2)], feeds)
    np.testing.assert_array_equal(*found[:2])
    np.testing.assert_array_equal(*found[2:])
    assert down.op_equation().is_map and not down.op_equation().guards


def test_an_unlikely_logit_is_not_lost() -> None:
    z, y = input("z", (1, 3), "float64"), input("y", (1,), "int64")
    loss = cross_entropy(z, y)
    at = {z: np.array([[0.0, -np.inf, 1e4]]), y: np.array([0])}
    assert evaluate([loss], at) == [1e4]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: max_pool2d(x, 2, padding=2), "is more than half of the window 2"),
        (lambda x: max_pool2d(x, 7), "the window is larger than the padded array"),
        (lambda x: max_pool2d(x, 0), "window is 0"),
        (lambda x: mean_pool2d(x, (2, 2, 2)), "or 2 of them"),
        (lambda x: lp_pool2d(x, 2, p=0.5), "expected a finite number of at least 1"),
        (lambda x: upsample(x, 0), "factor is 0"),
        (lambda x: pad(x, ((1, 1),)), "expected 4 pairs (before, after), one a dimension"),
        (lambda x: pad(x, ((0, 0),) * 4, "mirror"), "expected 'zero', 'constant' or 'edge'"),
        (lambda x: cross_entropy(x, input("y", (3,), "int64")), "do not belong to the logits"),
        (lambda x: cross_entropy(x, input("y", (2, 6, 6))), "labels must be integers"),
        (lambda x: batch_norm(x, *[parameter("p", (4,))] * 4, training=False), "x has 3 channels"),
    ],
)
def test_errors(build, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(input("x", (2, 3, 6, 6)))
    assert message in str(caught.value)
    assert str(caught.value).startswith("test_layers.py:")
