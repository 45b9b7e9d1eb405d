"""graphc through its public interface: single operations and the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphc as gx
from benchmarks.cpu.cases import Case, output_places
from benchmarks.cpu.workers.prepared import Arrays, Prepared, Settings

How = dict[str, Any]  # threads, precision and so on, as ``gx.compile`` takes them


def prepare(case: Case, settings: Settings) -> Prepared:
    """Compile the program of a case."""
    how = {"threads": settings.threads, **settings.peer}
    return _callable(BUILDERS[case.kind](case, how), case)


def _callable(program: gx.TrainingStep | Any, case: Case) -> Prepared:
    compiled = getattr(program, "program", program)
    inputs = [node.label for node in compiled.inputs]
    feeds: Arrays = {}

    def load(arrays: Arrays) -> None:
        for name, value in arrays.items():
            if name in compiled.parameters:
                compiled.parameters[name][...] = value
        feeds.clear()
        feeds.update({name: arrays[name] for name in inputs})

    def facts() -> dict[str, Any]:
        owned = [*compiled.parameters.values(), *compiled.states.values()]
        return {
            "kernel_seconds": compiled.profile(**feeds),
            "arena_bytes": compiled.arena_bytes,
            "workspace_bytes": compiled.workspace_bytes,
            "parameter_and_state_bytes": sum(array.nbytes for array in owned),
            "compile_seconds": compiled.compile_seconds,
        }

    def seconds() -> float:
        """The kernels of the convolution itself, not the maps that bring its arrays."""
        return sum(
            taken
            for name, taken in compiled.profile(**feeds).items()
            if not compiled.kernels[name].strategy.startswith("nest: map")
        )

    if case.kind != "conv":
        return Prepared(load, lambda: program(**feeds), list, facts)
    return Prepared(load, lambda: program(**feeds), _channels_second(case), facts, seconds)


def _channels_second(case: Case) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """The arrays that a program returned with their channels last, as every peer returns them."""
    if case.what == "wgrad":
        return list
    return lambda results: [np.moveaxis(result, -1, 1) for result in results]


def _vgg16(case: Case, how: How) -> Any:
    o = case.options
    model = gx.models.vgg16(
        image=o["image"], classes=o["classes"], head=o["head"], width=o["width"], dropout=0.0
    )
    x = gx.input("x", model.input_shape(o["batch"]))
    if case.what == "infer":
        return gx.compile([model(x, training=False)], name="bench_infer", **how)
    y = gx.input("y", (o["batch"],), dtype="int64")
    loss = gx.cross_entropy(model(x, training=True), y)
    optimizer = gx.SGD(lr=1e-4, momentum=0.9, weight_decay=5e-4)
    return gx.training_step(loss, optimizer, name="bench_train", **how)


def _compile(y: gx.Node, case: Case, wrt: Sequence[gx.Node], how: How) -> Any:
    """The program that computes only what the case asks for: y, gradients, or both."""
    if case.what == "forward":
        return gx.compile([y], name="bench_forward", **how)
    dy = gx.input("dy", y.shape)
    chosen = {"dgrad": wrt[:1], "wgrad": wrt[1:2], "both": wrt}[case.what]
    wanted = gx.gradients(gx.sum(y * dy), chosen)
    if case.what == "both":
        wanted = [y, *wanted]
    return gx.compile(wanted, name=f"bench_{case.what}", **how)


def _convolution(case: Case, how: How) -> Any:
    """The convolution between two other layers: as within a network, its arrays lie as it likes."""
    o = case.options
    convolve = {1: gx.conv1d, 2: gx.conv2d, 3: gx.conv3d}[len(o["image"])]
    x = gx.input("x", (o["batch"], o["channels"], *o["image"]))
    w = gx.parameter("w", (o["filters"], o["channels"] // o["groups"], *o["window"]))
    settings = {key: o[key] for key in ("stride", "padding", "dilation", "groups")}
    inside = _given(x)
    if case.what == "forward" and o["bias_relu"]:
        y = gx.relu(convolve(inside, w, gx.parameter("b", (o["filters"],)), **settings))
    else:
        y = convolve(inside, w, **settings)
    assert y.shape == (o["batch"], o["filters"], *output_places(o))
    if case.what == "forward":
        wanted = _returned(y)
    else:
        dy = _given(gx.input("dy", y.shape))
        (wanted,) = gx.gradients(gx.sum(y * dy), [inside if case.what == "dgrad" else w])
        wanted = _returned(wanted) if case.what == "dgrad" else wanted
    return gx.compile([wanted], name=f"bench_{case.what}", **how)


def _given(x: gx.Node) -> gx.Node:
    """A layer before, which makes an array of the same numbers."""
    with gx.layer_scope("given"):
        return gx.maximum(x, -3e38)


def _returned(y: gx.Node) -> gx.Node:
    """A layer after: channels last."""
    with gx.layer_scope("returned"):
        return gx.transpose(y, (0, *range(2, len(y.shape)), 1))


def _dense(case: Case, how: How) -> Any:
    o = case.options
    x = gx.input("x", (o["batch"], o["features"]))
    w = gx.parameter("w", (o["outputs"], o["features"]))
    b = gx.parameter("b", (o["outputs"],)) if case.what == "forward" else None
    return _compile(gx.dense(x, w, b), case, [x, w], how)


def _product(case: Case, how: How) -> Any:
    o = case.options
    x = gx.input("x", (o["batch"], o["rows"], o["inner"]))
    w = gx.input("w", (o["batch"], o["inner"], o["columns"]))
    return _compile(gx.matmul(x, w), case, [x, w], how)


def _map_input(o: dict[str, Any]) -> gx.Node:
    return gx.input("x", (o["batch"], o["channels"], o["image"], o["image"]))


def _relu(case: Case, how: How) -> Any:
    x = _map_input(case.options)
    return _compile(gx.relu(x), case, [x], how)


def _max_pool(case: Case, how: How) -> Any:
    x = _map_input(case.options)
    return _compile(gx.max_pool2d(x, 2), case, [x], how)


def _batch_norm(case: Case, how: How) -> Any:
    """Normalised by the batch itself; the running statistics are left alone by all peers."""
    x, channels = _map_input(case.options), (case.options["channels"],)
    gamma, beta = gx.parameter("gamma", channels), gx.parameter("beta", channels)
    mean, variance = gx.state("mean", channels, 0.0), gx.state("variance", channels, 1.0)
    y = gx.batch_norm(x, gamma, beta, mean, variance, training=True)
    return _compile(y, case, [x, gamma, beta], how)


def _sgd(case: Case, how: How) -> Any:
    """The update of ``gx.SGD`` with given gradients, as assignments of a step."""
    unused = gx.parameter("unused", (1,), init=0.0)
    loss = gx.sum(unused * unused)
    for number, shape in enumerate(case.options["shapes"]):
        g = gx.input(f"g{number}", shape)
        start = gx.init.normal(math.prod(shape[1:]) ** -0.5)
        w, v = gx.state(f"w{number}", shape, start), gx.state(f"v{number}", shape, 0.0)
        velocity = 0.9 * v + (g + 5e-4 * w)
        gx.assign(v, velocity, when=loss)
        gx.assign(w, w - 1e-4 * velocity, when=loss)
    return gx.training_step(loss, gx.SGD(lr=1e-4), name="bench_sgd", **how)


BUILDERS = {
    "vgg16": _vgg16,
    "conv": _convolution,
    "dense": _dense,
    "product": _product,
    "relu": _relu,
    "max_pool": _max_pool,
    "batch_norm": _batch_norm,
    "sgd": _sgd,
}
