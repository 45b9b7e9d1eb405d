"""The same step through PyTorch on the same card: eager, compiled, and as its own CUDA graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.graphc_step import REPLAYS, Shape

try:
    import torch

    from benchmarks.cpu.workers.torch_net import network
except ImportError:  # the table then says that it was not measured
    torch = None  # type: ignore[assignment]

MODES = ("eager", "compile", "graph")


def available() -> bool:
    """Whether PyTorch is there and sees a GPU."""
    return torch is not None and torch.cuda.is_available()


def ceilings() -> dict[str, float]:
    """Bytes a second of a copy, and operations a second of a product of bf16 matrices of 8192."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    copied = _median(lambda: target.copy_(source))
    multiplied = _median(lambda: torch.matmul(a, b))
    return {"copy": 2 * source.nbytes / copied, "bf16": 2 * 8192**3 / multiplied}


def timed(shape: Shape, precision: str, mode: str) -> dict[str, float]:
    """Seconds of a training step and the peak of its memory in bytes."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.cuda.reset_peak_memory_stats()
    options = {
        "width": shape.width, "image": shape.image, "head": shape.head, "classes": shape.classes,
    }  # fmt: skip
    net = network(options).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    feeds = shape.feeds()
    x = torch.from_numpy(feeds["x"]).cuda().contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(feeds["y"]).cuda()
    forward = torch.compile(net) if mode == "compile" else net
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    half = torch.autocast("cuda", kinds.get(precision), enabled=precision in kinds)

    def step() -> None:
        optimizer.zero_grad(set_to_none=mode != "graph")
        with half:
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    run: Callable[[], Any] = _captured(step) if mode == "graph" else step
    return {"seconds": _median(run), "bytes": float(torch.cuda.max_memory_allocated())}


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _median(call: Callable[[], Any]) -> float:
    """Seconds between events around a call, the median of many after some to warm up."""
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
    return statistics.median(found)
