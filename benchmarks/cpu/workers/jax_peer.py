"""VGG16 in JAX: one jitted function, images in NHWC, parameters and velocities donated."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.cpu.cases import Case
from benchmarks.cpu.workers.prepared import Arrays, Prepared, Settings

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
LR, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 5e-4
Tree = dict[str, Any]


def prepare(case: Case, settings: Settings) -> Prepared:
    """Training step or inference; XLA takes as many threads as it sees cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: settings.threads])
    if case.kind != "vgg16":
        raise ValueError(f"JAX is not measured on {case.kind}")
    weights = parameters(case.options)
    batch: dict[str, jax.Array] = {}

    def load(arrays: Arrays) -> None:
        batch["x"] = jax.device_put(np.ascontiguousarray(arrays["x"].transpose(0, 2, 3, 1)))
        batch["y"] = jax.device_put(arrays["y"].astype(np.int32))
        jax.block_until_ready(batch)

    if case.what == "infer":
        infer = jax.jit(logits)
        return Prepared(load, lambda: infer(weights, batch["x"]).block_until_ready(), _arrays)
    held = {"weights": weights, "velocity": jax.tree.map(jnp.zeros_like, weights)}
    step = jax.jit(train, donate_argnums=(0, 1))

    def run() -> jax.Array:
        held["weights"], held["velocity"], loss = step(
            held["weights"], held["velocity"], batch["x"], batch["y"]
        )
        jax.block_until_ready(held)
        return loss

    return Prepared(load, run, _arrays)


def parameters(options: dict[str, Any]) -> list[Tree]:
    """He-normal weights and biases of 0, convolutions as (height, width, in, out)."""
    shapes, channels = [], 3
    for filters, count in STAGES:
        width = max(1, round(filters * options["width"]))
        for _ in range(count):
            shapes.append((3, 3, channels, width))
            channels = width
    head = options["head"]
    features = channels * (options["image"] // 32) ** 2
    shapes += [(features, head), (head, head), (head, options["classes"])]
    rng = np.random.default_rng(0)
    return [
        {
            "w": jnp.asarray(
                rng.standard_normal(s, np.float32) * np.float32((2 / np.prod(s[:-1])) ** 0.5)
            ),
            "b": jnp.zeros(s[-1]),
        }
        for s in shapes
    ]


def logits(weights: list[Tree], x: jax.Array) -> jax.Array:
    """The network."""
    layers = iter(weights)
    for _, count in STAGES:
        for _ in range(count):
            layer = next(layers)
            x = lax.conv_general_dilated(
                x, layer["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["b"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    *hidden, last = layers
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def train(
    weights: list[Tree], velocity: list[Tree], x: jax.Array, y: jax.Array
) -> tuple[list[Tree], list[Tree], jax.Array]:
    """One step of SGD with momentum and weight decay."""

    def loss_of(weights: list[Tree]) -> jax.Array:
        scores = jax.nn.log_softmax(logits(weights, x))
        return -jnp.take_along_axis(scores, y[:, None], axis=1).mean()

    loss, gradients = jax.value_and_grad(loss_of)(weights)
    velocity = jax.tree.map(
        lambda v, g, w: MOMENTUM * v + (g + WEIGHT_DECAY * w), velocity, gradients, weights
    )
    return jax.tree.map(lambda w, v: w - LR * v, weights, velocity), velocity, loss


def _arrays(result: jax.Array) -> list[np.ndarray]:
    return [np.asarray(result)]
