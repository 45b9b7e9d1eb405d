"""PyTorch: single operations through oneDNN, and the whole network (see `torch_net`).

With dtype float64 the same module is the reference that errors are measured against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.cpu.cases import Case
from benchmarks.cpu.workers import torch_net
from benchmarks.cpu.workers.prepared import Arrays, Prepared, Settings

Tensors = dict[str, torch.Tensor]
aten = torch.ops.aten


def prepare(case: Case, settings: Settings) -> Prepared:
    """Make a case ready to run."""
    torch.set_num_threads(settings.threads)
    if case.kind == "vgg16":
        return torch_net.prepare(case, settings)
    if case.kind == "sgd":
        return _sgd(case, settings)
    operation = OPERATIONS[case.kind](case)
    dtype = getattr(torch, settings.peer.get("dtype", "float32"))
    tensors: Tensors = {}

    def load(arrays: Arrays) -> None:
        tensors.clear()
        for name, value in arrays.items():
            tensor = torch.from_numpy(value).to(dtype)
            tensors[name] = tensor.contiguous(memory_format=_layout(tensor, settings))

    def run() -> Any:
        with torch.no_grad():
            return operation(tensors)

    return Prepared(load, run, _arrays)


def _layout(tensor: torch.Tensor, settings: Settings) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}
    if settings.peer["layout"] == "channels_last":
        return last.get(tensor.dim(), torch.contiguous_format)
    return torch.contiguous_format


def _arrays(result: Any) -> list[np.ndarray]:
    tensors = result if isinstance(result, (tuple, list)) else [result]
    return [tensor.contiguous().numpy() for tensor in tensors]


def _convolution(case: Case) -> Callable[[Tensors], Any]:
    o, rank = case.options, len(case.options["image"])
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    step, padding, dilation = ([o[key]] * rank for key in ("stride", "padding", "dilation"))
    settings = {"stride": step, "padding": padding, "dilation": dilation, "groups": o["groups"]}

    def forward(t: Tensors) -> torch.Tensor:
        if o["bias_relu"]:
            return F.relu_(convolve(t["x"], t["w"], t["b"], **settings))
        return convolve(t["x"], t["w"], **settings)

    def backward(t: Tensors) -> torch.Tensor:
        wanted = [case.what == "dgrad", case.what == "wgrad", False]
        return aten.convolution_backward(
            t["dy"], t["x"], t["w"], None, step, padding, dilation, False, [0] * rank,
            o["groups"], wanted,
        )[wanted.index(True)]  # fmt: skip

    return forward if case.what == "forward" else backward


def _dense(case: Case) -> Callable[[Tensors], Any]:
    return {
        "forward": lambda t: F.linear(t["x"], t["w"], t["b"]),
        "dgrad": lambda t: t["dy"] @ t["w"],
        "wgrad": lambda t: t["dy"].T @ t["x"],
    }[case.what]


def _product(case: Case) -> Callable[[Tensors], Any]:
    return {
        "forward": lambda t: torch.bmm(t["x"], t["w"]),
        "dgrad": lambda t: torch.bmm(t["dy"], t["w"].mT),
        "wgrad": lambda t: torch.bmm(t["x"].mT, t["dy"]),
    }[case.what]


def _relu(case: Case) -> Callable[[Tensors], Any]:
    return {
        "forward": lambda t: F.relu(t["x"]),
        "dgrad": lambda t: aten.threshold_backward(t["dy"], t["x"], 0),
    }[case.what]


def _max_pool(case: Case) -> Callable[[Tensors], Any]:
    pair = ([2, 2], [2, 2], [0, 0], [1, 1], False)

    def both(t: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        y, places = aten.max_pool2d_with_indices(t["x"], *pair)
        return y, aten.max_pool2d_with_indices_backward(t["dy"], t["x"], *pair, places)

    return {"forward": lambda t: F.max_pool2d(t["x"], 2), "both": both}[case.what]


def _batch_norm(case: Case) -> Callable[[Tensors], Any]:
    def forward(t: Tensors) -> tuple[torch.Tensor, ...]:
        return aten.native_batch_norm(t["x"], t["gamma"], t["beta"], None, None, True, 0.1, 1e-5)

    def both(t: Tensors) -> tuple[torch.Tensor, ...]:
        y, mean, scale = forward(t)
        gradients = aten.native_batch_norm_backward(
            t["dy"], t["x"], t["gamma"], None, None, mean, scale, True, 1e-5, [True] * 3
        )
        return y, *gradients

    return {"forward": lambda t: forward(t)[0], "both": both}[case.what]


def _sgd(case: Case, settings: Settings) -> Prepared:
    weights = [torch.randn(shape) for shape in case.options["shapes"]]
    optimizer = torch.optim.SGD(
        weights, lr=1e-4, momentum=0.9, weight_decay=5e-4, **settings.peer.get("optimizer", {})
    )

    def load(arrays: Arrays) -> None:
        for number, weight in enumerate(weights):
            weight.grad = torch.from_numpy(arrays[f"g{number}"])

    return Prepared(load, optimizer.step, lambda result: [])


OPERATIONS = {
    "conv": _convolution,
    "dense": _dense,
    "product": _product,
    "relu": _relu,
    "max_pool": _max_pool,
    "batch_norm": _batch_norm,
}
