"""Numbers and formulas that five public texts work out by hand: tests/data/worked_examples.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.autodiff.adjoint import adjoint, arg_equation
from graphc.autodiff.backward import gradients
from graphc.evaluate import evaluate
from graphc.inspect.expand import expanded_gradient
from graphc.ir.graph import Node, op_node
from graphc.ir.types import DType
from graphc.ops.activations import relu, sigmoid
from graphc.ops.convolution import conv1d, conv2d
from graphc.ops.elementwise import square
from graphc.ops.leaves import constant, input, parameter
from graphc.ops.linear import matmul
from graphc.ops.losses import cross_entropy, softmax
from graphc.ops.pooling import max_pool2d, mean_pool2d
from graphc.ops.reductions import sum as total
from graphc.ops.resample import downsample, upsample
from graphc.ops.shape import flip, transpose

EXAMPLES = json.loads((Path(__file__).parent / "data" / "worked_examples.json").read_text())


def example(section: str, source: str) -> dict[str, Any]:
    (found,) = [item for item in EXAMPLES[section] if item["source"] == source]
    return found


def array(value: Any) -> Node:
    return constant(np.array(value, "float64"))


def image(value: Any) -> Node:
    """A matrix as a batch of one image with one channel."""
    return constant(np.array(value, "float64")[None, None])


def value(node: Node, **feeds: Any) -> np.ndarray:
    return evaluate([node], {name: np.array(fed, "float64") for name, fed in feeds.items()})[0]


def close(node: Node, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.squeeze(value(node)), expected, rtol=0, atol=tolerance)


def network(item: dict[str, Any], x: list[float], *names: str) -> tuple[list[Node], list[Node]]:
    """Weights, and the values after each layer of a relu network with a linear output."""
    weights = [parameter(name, np.shape(item[name]), dtype="float64") for name in names]
    values = [array(x)]
    for weight in weights:
        values.append(matmul(weight, values[-1]))
        values[-1] = relu(values[-1]) if weight is not weights[-1] else values[-1]
    return weights, values[1:]


def at_weights(item: dict[str, Any], node: Node, *names: str) -> np.ndarray:
    return value(node, **{name: item[name] for name in names})


def test_a_neuron() -> None:
    item = example("dense", "princeton 10.2.1")
    z = matmul(array(item["w"]), array(item["x"]))
    close(sigmoid(z), item["sigmoid"])
    close(relu(z), item["relu"])


def test_exclusive_or() -> None:
    for x1, x2, truth in example("dense", "princeton 10.3 (XOR)")["truth"]:
        x = array([x1, x2])
        h1, h2 = relu(x[0] + x[1]), relu(x[0] + x[1] - 1)
        close(relu(h1 - 2 * h2), truth)


def test_softmax() -> None:
    item = example("dense", "princeton 10.4.1")
    close(softmax(array(item["softmax_of"])), item["rounded"], 0.005)
    first, second = example("dense", "princeton 10.4.2")["softmax_equal"]
    close(softmax(array(first)), value(softmax(array(second))))


def test_forward_through_two_hidden_layers() -> None:
    item, names = example("dense", "princeton 11.1"), ("W1", "W2", "Wo")
    weights, (h1, h2, o) = network(item, item["x"], *names)
    assert sum(np.prod(w.shape) for w in weights) == item["weights"]
    for node, key in ((h1, "h1"), (h2, "h2"), (o, "o")):
        np.testing.assert_array_equal(at_weights(item, node, *names), item[key])
    np.testing.assert_allclose(
        at_weights(item, softmax(o), *names), item["softmax_rounded"], atol=0.005
    )
    error = at_weights(item, square(o[0] - 0), *names)
    assert error == item["squared_error_first_output_y0"]
    entropy = at_weights(item, cross_entropy(o[None], constant([1])), *names)
    assert entropy == pytest.approx(item["cross_entropy_label_2_of_1_based"], abs=5e-7)


def test_jacobian_rows_of_the_same_network() -> None:
    weighted = example("dense", "princeton 11.1")
    item, names = example("dense", "princeton 11.3.1"), ("W1", "W2", "Wo")
    weights, (h1, h2, o) = network(weighted, item["x"], *names)
    for node, key in ((h1, "h1"), (h2, "h2"), (o, "o")):
        np.testing.assert_array_equal(at_weights(weighted, node, *names), item[key])
    rows = [gradients(o[k], [weights[0]])[0][1, 1] for k in range(3)]
    found = [float(at_weights(weighted, row, *names)) for row in rows]
    assert found == item["d_o_d_W1[1][1]"]
    (slope,) = gradients(o[0], [h2])
    assert at_weights(weighted, slope[0], *names) == item["d_o1_d_h2[0]"]
    columns = [gradients(h2[k], [h1])[0][1] for k in range(2)]
    # The text differentiates before the activation; at this input every unit of h2 is active.
    assert [float(at_weights(weighted, c, *names)) for c in columns] == item["d_h2_d_h1[1]"]


def test_backward_from_a_cross_entropy() -> None:
    item, names = example("dense", "princeton 11.5"), ("W1", "W2", "W3")
    weights, (_, h2, o) = network(item, item["x"], *names)
    np.testing.assert_array_equal(at_weights(item, o, *names), item["o"])
    loss = cross_entropy(o[None], constant([1]))
    slope, outer = gradients(loss, [o, weights[2]])
    p_minus_y = at_weights(item, softmax(o), *names) - [0, 1]
    np.testing.assert_allclose(at_weights(item, slope, *names), p_minus_y, rtol=1e-12)
    expected = np.outer(p_minus_y, at_weights(item, h2, *names))
    np.testing.assert_allclose(at_weights(item, outer, *names), expected, rtol=1e-12)


def test_convolutions() -> None:
    item = example("conv", "princeton 12.1.2")
    close(conv1d(image(item["x"]), image(item["w"])), item["y"])
    item = example("conv", "princeton 12.2.3")
    close(conv2d(image(item["x"]), image(item["w"])), item["y"])


def test_strided_and_padded_convolution() -> None:
    item = example("conv", "toronto, convolution")
    x, w = image(item["x"]), image(item["w"])
    close(conv2d(x, w), item["stride_1"])
    close(conv2d(x, w, stride=2), item["stride_2"])
    right = conv2d(x, w, stride=2, padding=((0, 0), (0, 1)))
    close(right, item["stride_2_one_zero_column_on_the_right"])


def test_shapes_and_counts_of_convolutions() -> None:
    item = example("conv", "princeton 12.2.5")
    x = input("x", (1, 1, *item["in"]))
    w = parameter("w", (1, 1, item["kernel"], item["kernel"]))
    y = conv2d(x, w, padding=item["padding"], stride=item["stride"])
    assert y.shape == (1, 1, *item["out"])
    item = example("conv", "princeton 12.2.6")
    w = parameter("w", (item["out_channels"], item["in_channels"], item["kernel"], item["kernel"]))
    assert np.prod(w.shape) == item["weights"]
    assert conv2d(input("x", (1, item["in_channels"], 8, 8)), w).shape == (1, 3, 4, 4)
    item = example("pool", "princeton 12.2.7")
    assert max_pool2d(input("x", (1, 1, *item["in"])), item["window"]).shape[2:] == tuple(
        item["out"]
    )


def brightness_detector(x: Node) -> Node:
    spots = relu(conv2d(x, image([[1]]), array([-254])))
    return sigmoid(conv2d(spots, image(np.full((8, 8), 10)), array([-5])))


def plus_detector(x: Node) -> Node:
    plus = image([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    spots = relu(conv2d(x, plus, array([-1274])))
    return sigmoid(conv2d(spots, image(np.full((6, 6), 10)), array([-5])))


@pytest.mark.parametrize("where", [(1, 1), (3, 6), (6, 4)])
def test_detectors(where: tuple[int, int]) -> None:
    a, b = where
    picture = np.full((1, 1, 8, 8), 100.0)
    x = input("x", picture.shape, "float64")
    bright, plus = brightness_detector(x), plus_detector(x)
    assert value(bright, x=picture) < 0.01
    picture[0, 0, a, b] = 255
    assert value(bright, x=picture) >= 0.99
    for p, q in ((a, b), (a - 1, b), (a + 1, b), (a, b - 1)):
        picture[0, 0, p, q] = 255
    assert value(plus, x=picture) < 0.01
    picture[0, 0, a, b + 1] = 255
    assert value(plus, x=picture) >= 0.99


def test_pooling() -> None:
    item = example("pool", "toronto, max pooling")
    y, window, stride = image(item["y"]), item["window"], item["stride"]
    highest = max_pool2d(y, window, stride=stride)
    close(highest, item["max"])
    close(mean_pool2d(y, window, stride=stride), item["mean"])
    where = op_node(
        arg_equation(highest.op_equation()), highest.inputs, DType.uint8, label="argmax"
    )
    np.testing.assert_array_equal(
        value(where)[0, 0] + 1, item["argmax_in_window_1_based_row_major"]
    )


def written_out(out: Node, dout: Node, operand: int, names: dict[Node, str]) -> tuple[str, ...]:
    """The adjoint of one op, element by element."""
    (gather,) = adjoint(out.op_equation(), operand).gathers
    return expanded_gradient(
        op_node(gather, (dout, *out.inputs), dout.dtype, label="gradient"), names
    )


def test_the_formulas_of_a_derived_convolution() -> None:
    item = example(
        "derived_gradients",
        "toronto, 3x3 input, 2x2 filter, stride 1 (z is 2x2, all row-major, 1-based)",
    )
    x, w = input("x", (1, 1, 3, 3)), parameter("w", (1, 1, 2, 2))
    dz = input("dz", (1, 1, 2, 2))
    z = conv2d(x, w)
    assert z.inputs == (x, w)
    assert list(written_out(z, dz, 0, {})) == item["dx"]
    assert list(written_out(z, dz, 1, {})) == item["dw"]


def test_the_formulas_of_a_derived_mean_pooling() -> None:
    item = example("derived_gradients", "toronto, mean pooling 2x2 stride 1 on 3x3")
    y, d = input("y", (1, 1, 3, 3)), input("d", (1, 1, 2, 2))
    found = written_out(mean_pool2d(y, 2, stride=1), d, 0, {})
    assert (found[0], found[4], found[8]) == (item["dy1"], item["dy5"], item["dy9"])


def test_the_gradient_that_backward_derives_is_the_same_formula() -> None:
    item = EXAMPLES["derived_gradients"][0]
    x, w = input("x", (1, 1, 3, 3)), parameter("w", (1, 1, 2, 2))
    z = conv2d(x, w)
    found = gradients(total(z * input("seed", z.shape)), [x, w])
    for gradient, key in zip(found, ("dx", "dw"), strict=True):
        (dz,) = [node for node in gradient.inputs if node not in (x, w)]
        assert list(expanded_gradient(gradient, {dz: "dz"})) == item[key]


@pytest.mark.parametrize("factor", [2, 3])
def test_resampling_is_its_own_counterpart(factor: int, seeded: np.random.Generator) -> None:
    small = constant(seeded.normal(size=(2, 3, 4, 5)))
    large = constant(seeded.normal(size=(2, 3, 4 * factor, 5 * factor)))
    x = input("x", large.shape, "float64")
    (slope,) = gradients(total(downsample(x, factor) * small), [x])
    np.testing.assert_array_equal(value(slope, x=np.zeros(x.shape)), value(upsample(small, factor)))
    x = input("x", small.shape, "float64")
    (slope,) = gradients(total(upsample(x, factor) * large), [x])
    np.testing.assert_array_equal(
        value(slope, x=np.zeros(x.shape)), value(downsample(large, factor))
    )


def test_convolution_gradients_are_convolutions(seeded: np.random.Generator) -> None:
    x = constant(seeded.normal(size=(2, 3, 6, 7)))
    w = constant(seeded.normal(size=(4, 3, 3, 2)))
    z = conv2d(x, w)
    dz = constant(seeded.normal(size=z.shape))
    dx, dw = gradients(total(z * dz), [x, w])
    reversed_filter = transpose(flip(w, (2, 3)), (1, 0, 2, 3))
    close(dx, value(conv2d(dz, reversed_filter, padding=((2, 2), (1, 1)))), 1e-12)
    batches_as_channels = (1, 0, 2, 3)
    by_correlation = conv2d(transpose(x, batches_as_channels), transpose(dz, batches_as_channels))
    close(dw, value(transpose(by_correlation, batches_as_channels)), 1e-12)


def test_a_weight_on_four_edges_sums_four_paths() -> None:
    x, w = input("x", (4,)), parameter("w", ())
    y = [w * x[k] for k in range(4)]
    (slope,) = gradients(y[0] + y[1] + y[2] + y[3], [w])
    assert len(slope.inputs) == 4 and slope.label == "d w (4 paths)"
    feeds = {"x": np.array([1.0, 2, 4, 8]), "w": np.array(3.0)}
    assert evaluate([slope], feeds)[0] == 15


def test_the_derivative_of_softmax_and_cross_entropy(seeded: np.random.Generator) -> None:
    logits, labels = seeded.normal(size=(5, 7)), np.array([0, 6, 3, 3, 1])
    z, y = input("z", (5, 7), "float64"), input("y", (5,), "int64")
    feeds: dict[Node | str, np.ndarray] = {z: logits, y: labels}
    slope, p = evaluate([*gradients(cross_entropy(z, y), [z]), softmax(z)], feeds)
    np.testing.assert_allclose(slope, (p - np.eye(7)[labels]) / 5, rtol=0, atol=1e-15)
    one = input("z", (7,), "float64")
    out = softmax(one)
    jacobian = evaluate([gradients(out[i], [one])[0] for i in range(7)], {one: logits[0]})
    p0 = p[0]
    np.testing.assert_allclose(jacobian, np.diag(p0) - np.outer(p0, p0), rtol=0, atol=1e-15)
