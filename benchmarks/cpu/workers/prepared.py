"""What a peer makes of a case, and the random data that every peer is given for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.cpu.cases import Case, output_places

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What a worker is told when it starts."""

    threads: int
    isa: str
    peer: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to run.

    Attributes:
        load: puts fresh data in place, in the peer's own layout; not timed.
        run: one repetition, which ends when its result is there; timed.
        results: what ``run`` returned as NumPy arrays in the order of the case.
        facts: answers some facts for the record, such as bytes or seconds by kernel.
        seconds: one repetition that measures a part of itself, in place of ``run``.
    """

    load: Callable[[Arrays], None]
    run: Callable[[], Any]
    results: Callable[[Any], list[np.ndarray]]
    facts: Callable[[], dict[str, Any]] = field(default=dict)
    seconds: Callable[[], float] | None = None


def random_arrays(case: Case, seed: int) -> Arrays:
    """Data of a case by name: the same for every peer, different for every seed."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        array = rng.standard_normal(shape, np.float32)
        return array if scale == 1.0 else np.multiply(array, np.float32(scale), out=array)

    o = case.options
    if case.kind == "vgg16":
        images = normal(o["batch"], 3, o["image"], o["image"])
        return {"x": images, "y": rng.integers(0, o["classes"], o["batch"])}
    if case.kind == "conv":
        return _convolution(o, normal)
    if case.kind == "dense":
        batch, features, outputs = o["batch"], o["features"], o["outputs"]
        return {
            "x": normal(batch, features),
            "w": normal(outputs, features, scale=features**-0.5),
            "b": normal(outputs),
            "dy": normal(batch, outputs),
        }
    if case.kind == "product":
        batch, rows, inner, columns = (o[k] for k in ("batch", "rows", "inner", "columns"))
        return {
            "x": normal(batch, rows, inner),
            "w": normal(batch, inner, columns, scale=inner**-0.5),
            "dy": normal(batch, rows, columns),
        }
    if case.kind == "sgd":
        return {f"g{number}": normal(*shape) for number, shape in enumerate(o["shapes"])}
    return _maps(case, normal)


def _convolution(o: dict[str, Any], normal: Callable[..., np.ndarray]) -> Arrays:
    filters = (o["filters"], o["channels"] // o["groups"], *o["window"])
    return {
        "x": normal(o["batch"], o["channels"], *o["image"]),
        "w": normal(*filters, scale=math.prod(filters[1:]) ** -0.5),
        "b": normal(o["filters"]),
        "dy": normal(o["batch"], o["filters"], *output_places(o)),
    }


def _maps(case: Case, normal: Callable[..., np.ndarray]) -> Arrays:
    o = case.options
    image = o["image"] // 2 if case.kind == "max_pool" else o["image"]
    return {
        "x": normal(o["batch"], o["channels"], o["image"], o["image"]),
        "gamma": normal(o["channels"]),
        "beta": normal(o["channels"]),
        "dy": normal(o["batch"], o["channels"], image, image),
    }
