"""The same step through PyTorch on the same card, in several modes.

All run under autocast where the precision has 16 bits, with cuDNN's own search and a fused SGD.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cpu.workers.torch_net import network
from benchmarks.gpu.graphc_step import REPLAYS, ROUNDS, Shape


def ceilings() -> dict[str, float]:
    """Bytes a second of a copy, and operations a second of a product of bf16 matrices of 8192."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    copied = _median(lambda: target.copy_(source))
    multiplied = _median(lambda: torch.matmul(a, b))
    return {"copy": 2 * source.nbytes / copied, "bf16": 2 * 8192**3 / multiplied}


def timed(shape: Shape, precision: str, mode: str) -> dict[str, Any]:
    """Seconds of a training step, as for graphc, and the peak of its memory in bytes.

    The modes are "eager", "compile", either with "_graph" for a CUDA graph of its own, and
    "contiguous" for eager without channels last.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    layout = torch.contiguous_format if mode == "contiguous" else torch.channels_last
    options = {
        "width": shape.width, "image": shape.image, "head": shape.head, "classes": shape.classes,
    }  # fmt: skip
    net = network(options).cuda().to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    feeds = shape.feeds()
    x = torch.from_numpy(feeds["x"]).cuda().contiguous(memory_format=layout)
    y = torch.from_numpy(feeds["y"]).cuda()
    forward = torch.compile(net) if mode.startswith("compile") else net
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    half = torch.autocast("cuda", kinds.get(precision), enabled=precision in kinds)

    def step() -> None:
        optimizer.zero_grad(set_to_none=not mode.endswith("graph"))
        with half:
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    run: Callable[[], Any] = _captured(step) if mode.endswith("graph") else step
    rounds = [_times(run) for _ in range(ROUNDS)]
    return {
        "seconds": [statistics.median(one) for one in rounds],
        "least": min(map(min, rounds)), "most": max(map(max, rounds)),
        "bytes": torch.cuda.max_memory_allocated(), "held": torch.cuda.max_memory_reserved(),
    }  # fmt: skip


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _median(call: Callable[[], Any]) -> float:
    return statistics.median(_times(call))


def _times(call: Callable[[], Any]) -> list[float]:
    """Seconds between events around each of many calls, after some to warm up."""
    for _ in range(5):
        call()
    found = []
    for _ in range(REPLAYS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        after.synchronize()
        found.append(before.elapsed_time(after) / 1e3)
    return found
