"""Small networks whose text at every stage is kept in tests/golden."""

import graphc as gx
from graphc.ir.graph import Graph


def convolution_net() -> Graph:
    """A padded convolution with bias, relu, max pooling, dense, cross-entropy: the whole step."""
    x = gx.input("x", (4, 3, 8, 8))
    y = gx.input("y", (4,), dtype="int64")
    with gx.layer_scope("conv"):
        w = gx.parameter("conv.weight", (8, 3, 3, 3))
        b = gx.parameter("conv.bias", (8,))
        z = gx.relu(gx.conv2d(x, w, b, padding=1))
    with gx.layer_scope("pool"):
        z = gx.max_pool2d(z, 2)
    with gx.layer_scope("dense"):
        v = gx.parameter("dense.weight", (10, 8 * 4 * 4))
        logits = gx.dense(gx.flatten(z), v)
    return step(gx.cross_entropy(logits, y))


def strided_net() -> Graph:
    """A strided, dilated convolution whose input has a gradient too, and overlapping mean pools."""
    x = gx.input("x", (2, 3, 12, 12))
    w = gx.parameter("w", (8, 3, 3, 3))
    u = gx.parameter("u", (4, 8, 3, 3))
    hidden = gx.tanh(gx.conv2d(x, w, stride=2, padding=1))
    pooled = gx.mean_pool2d(gx.conv2d(hidden, u, dilation=2, padding=2, stride=2), 3, stride=1)
    return step(gx.mean(gx.square(pooled)))


def attention_net() -> Graph:
    """Scaled products with a softmax between: batched contractions and row reductions."""
    q = gx.parameter("q", (2, 8, 16))
    k = gx.parameter("k", (2, 8, 16))
    v = gx.parameter("v", (2, 8, 16))
    scores = gx.softmax(gx.einsum("bid,bjd->bij", q, k) * 0.25, axis=-1)
    return step(gx.sum(gx.square(gx.matmul(scores, v))))


def step(loss: gx.Node) -> Graph:
    """Loss and the updates of momentum SGD."""
    from graphc.train.step import training_assignments

    return Graph((loss,), tuple(training_assignments(loss, gx.SGD(lr=0.1, momentum=0.9))))


NETS = {
    "convolution": convolution_net,
    "strided": strided_net,
    "attention": attention_net,
}
