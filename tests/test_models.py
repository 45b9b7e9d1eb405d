"""The models: how many parameters they have, and VGG16 against PyTorch with the same weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as tnf

from graphc.autodiff.backward import gradients
from graphc.backends.base import initial_value
from graphc.dsl.layers import Conv2d, Dense, ReLU, Sequential
from graphc.dsl.models import MODELS, Model, alexnet, lenet5, vgg11, vgg13, vgg16, vgg19
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Node, topological
from graphc.ops.leaves import input
from graphc.ops.losses import cross_entropy


def values(model: Model, generator: np.random.Generator) -> dict[Node | str, np.ndarray]:
    """First values, with biases and scales moved off 0 and 1 so that their gradients matter."""
    found: dict[Node | str, np.ndarray] = {
        node: initial_value(node, 0).astype("float64")
        for node in (*model.parameters, *model.states)
    }
    for node in model.parameters:
        found[node] += 0.1 * generator.standard_normal(node.shape)
    return found


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (vgg11, 132_863_336),
        (vgg13, 133_047_848),
        (vgg16, 138_357_544),
        (vgg19, 143_667_240),
        (alexnet, 60_965_224),
        (lenet5, 61_706),
    ],
)
def test_parameter_counts(model, count: int) -> None:
    assert model().parameter_count == count


def test_batch_norm_adds_two_parameters_and_two_states_a_channel() -> None:
    channels = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
    model = vgg16(batch_norm=True)
    assert model.parameter_count == 138_357_544 + 2 * channels
    assert len(model.states) == 2 * 13


def test_vgg16_names_its_layers_as_the_paper_does() -> None:
    model = vgg16(image=32, dropout=0)
    names = [layer.name for layer in model.layers if not layer.name.startswith("relu")]
    stages = (2, 2, 3, 3, 3)
    trunk = [
        name
        for s, depth in enumerate(stages, 1)
        for name in [*(f"conv{s}_{n}" for n in range(1, depth + 1)), f"pool{s}"]
    ]
    assert names == [*trunk, "flatten", "fc6", "fc7", "fc8"]
    labels = [p.label for p in model.parameters]
    assert labels[:2] == ["conv1_1.weight", "conv1_1.bias"] and labels[-1] == "fc8.bias"
    assert model.parameters[0].layer == "conv1_1"


@pytest.mark.parametrize(("image", "flat"), [(32, 512), (64, 2048), ((32, 96), 1536), (47, 512)])
def test_the_dense_head_follows_from_the_image(image, flat: int) -> None:
    model = vgg16(image=image)
    (fc6,) = [p for p in model.parameters if p.label == "fc6.weight"]
    assert fc6.shape == (4096, flat)
    x = input("x", model.input_shape(2))
    assert model(x).shape == (2, 1000)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_gives_finite_logits(name: str, seeded: np.random.Generator) -> None:
    image = 64 if name == "alexnet" else 32
    model = MODELS[name](
        image=image, channels=2, classes=7, head=10, width=1 / 16, dtype="float64", batch_norm=False
    )
    x = input("x", model.input_shape(3), "float64")
    feeds = {**values(model, seeded), x: seeded.standard_normal(x.shape)}
    (logits,) = evaluate([model(x)], feeds)
    assert logits.shape == (3, 7) and np.isfinite(logits).all()


def torch_vgg16(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for stage, depth in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, depth + 1):
            place = f"{stage}_{number}"
            weight, bias = (tensors[f"conv{place}.{role}"] for role in ("weight", "bias"))
            x = tnf.conv2d(x, weight, bias, padding=1)
            if f"norm{place}.weight" in tensors:
                scale, shift = (tensors[f"norm{place}.{role}"] for role in ("weight", "bias"))
                x = tnf.batch_norm(x, None, None, scale, shift, training=True)
            x = x.relu()
        x = tnf.max_pool2d(x, 2)
    x = x.flatten(1)
    for number in (6, 7, 8):
        x = tnf.linear(x, tensors[f"fc{number}.weight"], tensors[f"fc{number}.bias"])
        x = x if number == 8 else x.relu()
    return x


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_narrow_vgg16_equals_torch(batch_norm: bool, seeded: np.random.Generator) -> None:
    model = vgg16(
        image=32, classes=10, width=1 / 16, head=24, dropout=0, dtype="float64",
        batch_norm=batch_norm,
    )  # fmt: skip
    x, y = input("x", model.input_shape(4), "float64"), input("y", (4,), "int64")
    feeds = {**values(model, seeded), x: seeded.standard_normal(x.shape), y: np.array([1, 0, 9, 4])}
    logits = model(x, training=True)
    loss = cross_entropy(logits, y)
    found = evaluate([logits, loss, *gradients(loss, model.parameters)], feeds)
    tensors = {p.label: torch.tensor(feeds[p], requires_grad=True) for p in model.parameters}
    expected = torch_vgg16(tensors, torch.tensor(feeds[x]))
    cost = tnf.cross_entropy(expected, torch.tensor(feeds[y]))
    cost.backward()
    wanted = [expected.detach(), cost.detach(), *(t.grad for t in tensors.values())]
    largest = max(float(t.grad.abs().max()) for t in tensors.values())
    for value, reference in zip(found, wanted, strict=True):
        # Before a batch norm a bias has gradient 0: what is left is rounding of the whole.
        scale = max(float(reference.abs().max()), 1e-3 * largest)
        np.testing.assert_allclose(value / scale, reference.numpy() / scale, rtol=0, atol=1e-9)


def test_layers_are_kernel_names() -> None:
    model = vgg16(image=32)
    x = input("x", model.input_shape(2))
    layers = {node.layer for node in topological([model(x, training=True)]) if node.kind == "op"}
    assert {"conv1_1", "conv5_3", "pool5", "fc6", "drop6", "fc8"} <= layers
    assert not any("vgg16" in layer for layer in layers)


def test_calling_a_model_twice_gives_the_same_node() -> None:
    model = vgg16(image=32)
    x = input("x", model.input_shape(2))
    assert model(x) is model(x)
    assert model(x, training=True) is model(x, training=True)
    assert model(x) is not model(x, training=True)


def test_torchvision_scheme() -> None:
    model = vgg16(image=32, init="torchvision", width=1 / 4, head=512)
    by_label = {p.label: initial_value(p, 3) for p in model.parameters}
    assert by_label["conv2_1.weight"].std() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    assert by_label["fc7.weight"].std() == pytest.approx(0.01, rel=0.05)
    assert not by_label["conv2_1.bias"].any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: vgg16(image=31), "the smallest is 32x32"),
        (lambda: vgg16(image=(64, 16)), "an image of 64x16 is too small"),
        (lambda: alexnet(image=32), "the smallest is 63x63"),
        (lambda: lenet5(image=15), "the smallest is 16x16"),
        (lambda: vgg16(image=0), "image is 0"),
        (lambda: vgg16(classes=0), "classes is 0"),
        (lambda: vgg16(init="zero"), "expected 'he' or 'torchvision'"),
        (lambda: vgg16(width=0), "width must be a positive number"),
        (lambda: vgg16(dropout=1.0), "dropout must be in 0 <= rate < 1"),
        (lambda: vgg16(dtype="half"), "no element type"),
        (
            lambda: vgg16(image=32)(input("x", (2, 3, 64, 64))),
            "expected float32 (batch, 3, 32, 32)",
        ),
        (
            lambda: vgg16(image=32)(input("x", (2, 3, 32, 32), "float64")),
            "model.input_shape(batch)",
        ),
        (lambda: Sequential([ReLU("a"), ReLU("a")]), "two layers are called 'a'"),
        (lambda: Conv2d("c", 3, 4, 3, groups=2), "2 groups do not divide 3 and 4 channels"),
        (lambda: Dense("", 3, 4), "name must be a non-empty text"),
    ],
)
def test_errors(build, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build()
    assert message in str(caught.value)
    assert str(caught.value).startswith("test_models.py:")


def test_the_smallest_image_is_accepted() -> None:
    for model in (vgg16(image=32), alexnet(image=63), lenet5(image=16)):
        assert model(input("x", model.input_shape(1))).shape[0] == 1
