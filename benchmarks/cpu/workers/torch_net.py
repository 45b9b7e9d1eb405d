"""VGG16 in PyTorch: eager or compiled, contiguous or channels_last, float32 or bf16 autocast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cpu.cases import Case
from benchmarks.cpu.workers.prepared import Arrays, Prepared, Settings

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def network(options: dict[str, Any]) -> nn.Sequential:
    """The layers of VGG16 without dropout, with He-normal weights and biases of 0."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, count in STAGES:
        width = max(1, round(filters * options["width"]))
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    features, head = channels * (options["image"] // 32) ** 2, options["head"]
    layers += [nn.Flatten(), nn.Linear(features, head), nn.ReLU(inplace=True)]
    layers += [nn.Linear(head, head), nn.ReLU(inplace=True), nn.Linear(head, options["classes"])]
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def prepare(case: Case, settings: Settings) -> Prepared:
    """Training step or inference of the network."""
    peer = settings.peer
    last = peer["layout"] == "channels_last"
    layout = torch.channels_last if last else torch.contiguous_format
    net = network(case.options).to(memory_format=layout)
    if peer.get("compile"):
        _limit_inductor(settings)
        forward = torch.compile(net)
    else:
        forward = net
    half = torch.autocast("cpu", torch.bfloat16, enabled=peer.get("autocast", False))
    batch: dict[str, torch.Tensor] = {}

    def load(arrays: Arrays) -> None:
        batch["x"] = torch.from_numpy(arrays["x"]).contiguous(memory_format=layout)
        batch["y"] = torch.from_numpy(arrays["y"])

    def infer() -> torch.Tensor:
        with torch.no_grad(), half:
            return forward(batch["x"])

    if case.what == "infer":
        net.eval()
        return Prepared(load, infer, _logits)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, **peer["optimizer"]
    )

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = F.cross_entropy(forward(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        return loss.item()

    return Prepared(load, step, lambda loss: [np.float32(loss)])


def _logits(result: torch.Tensor) -> list[np.ndarray]:
    return [result.float().numpy()]


def _limit_inductor(settings: Settings) -> None:
    """Inductor's own kernels obey the instruction set too."""
    if settings.isa == "avx2":
        from torch._inductor import config  # heavy, and only this peer needs it

        config.cpp.simdlen = 256
