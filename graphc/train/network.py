"""A model with what training adds to it: images, labels, logits, the loss, the optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphc.dsl.model import Model
from graphc.dsl.models import MODELS
from graphc.errors import UserError
from graphc.ir.graph import Node
from graphc.ops.leaves import input
from graphc.ops.losses import cross_entropy
from graphc.train.optimizers import SGD, Adam, AdamW, Optimizer

OPTIMIZERS = ("sgd", "adam", "adamw")
# What --dtype may be: the element type of a model's arrays, and its precision in between.
DTYPES = {
    "fp32": ("float32", "fp32"), "bf16": ("float32", "bf16"), "fp16": ("float32", "fp16"),
    "tf32": ("float32", "tf32"),
    "float32": ("float32", "fp32"), "float64": ("float64", "fp32"),
}  # fmt: skip
DECAY = 5e-4
MOMENTUM = 0.9


@dataclass(frozen=True)
class Network:
    """A classifier as it is trained: inputs ``x`` and ``y``, logits, and the scalar loss."""

    model: Model
    x: Node
    y: Node
    logits: Node
    loss: Node


def build_model(name: str, options: Mapping[str, Any]) -> Model:
    """The model of that name; an option that is None keeps the model's default."""
    given = {key: value for key, value in options.items() if value is not None}
    return MODELS[name](**given)


def changed_options(model: Model) -> dict[str, Any]:
    """The options of a model that are not its defaults, enough to build it again."""
    settings = model.settings
    values = {
        "image": settings.image, "channels": settings.channels, "classes": settings.classes,
        "batch_norm": settings.batch_norm, "head": settings.head, "dropout": settings.dropout,
        "init": settings.scheme, "width": settings.width, "dtype": settings.dtype.value,
        "seed": settings.seed,
    }  # fmt: skip
    if settings.image[0] == settings.image[1]:
        values["image"] = settings.image[0]
    defaults = inspect.signature(MODELS[model.name]).parameters
    return {key: value for key, value in values.items() if value != defaults[key].default}


def classifier(model: Model, batch: int) -> Network:
    """The model on a batch of images, as training sees it, with the mean cross-entropy."""
    x = input("x", model.input_shape(batch), model.settings.dtype)
    y = input("y", (batch,), "int64")
    logits = model(x, training=True)
    return Network(model, x, y, logits, cross_entropy(logits, y))


def make_optimizer(
    kind: str, lr: float | None, momentum: float | None, weight_decay: float | None
) -> Optimizer:
    """One of OPTIMIZERS; None stands for what usually works.

    Raises:
        UserError: a value is out of range, or a momentum for an optimizer without one.
    """
    for what, value in (("momentum", momentum), ("weight decay", weight_decay)):
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"the {what} must be finite and not negative, here {value}")
    if kind == "sgd":
        return SGD(
            0.005 if lr is None else lr,
            momentum=MOMENTUM if momentum is None else momentum,
            weight_decay=DECAY if weight_decay is None else weight_decay,
        )
    if momentum is not None:
        raise UserError(f"{kind} has no momentum to set; leave --momentum out, or take sgd")
    rate = 0.001 if lr is None else lr
    if kind == "adam":
        return Adam(rate, weight_decay=weight_decay or 0.0)
    return AdamW(rate, weight_decay=0.01 if weight_decay is None else weight_decay)
