"""Who is measured: each peer is a module of `workers` with settings, run in its own process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A contestant.

    Attributes:
        label: how tables and pictures call it.
        module: the module below `workers` that prepares its cases.
        settings: what else that module is told.
        needs: a processor flag without which it is not run.
    """

    label: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None


LAST = {"layout": "channels_last", "optimizer": {"fused": True}}

PEERS = {
    "graphc": Peer("graphc", "graphc_peer"),
    "torch": Peer("PyTorch NCHW", "torch_peer", {"layout": "contiguous", "optimizer": {}}),
    "torch_channels_last": Peer("PyTorch channels_last", "torch_peer", LAST),
    "torch_compile": Peer("torch.compile", "torch_peer", {**LAST, "compile": True}),
    "torch_bf16": Peer(
        "PyTorch bf16 autocast", "torch_peer", {**LAST, "autocast": True}, needs="avx512_bf16"
    ),
    "graphc_bf16": Peer("graphc bf16", "graphc_peer", {"precision": "bf16"}),
    "jax": Peer("JAX", "jax_peer"),
    "graphc_exact": Peer("graphc, direct", "graphc_peer", {"exact": True}),
    "triad": Peer("stream triad", "triad_peer", {"streaming": False}),
    "triad_streaming": Peer("triad, streaming stores", "triad_peer", {"streaming": True}),
    "reference": Peer("float64", "torch_peer", {"layout": "contiguous", "dtype": "float64"}),
}

NETWORKS = (
    "graphc", "torch", "torch_channels_last", "torch_compile", "graphc_bf16", "torch_bf16", "jax",
)  # fmt: skip
BF16 = ("graphc_bf16", "torch_bf16")
OPERATIONS = ("graphc", "torch", "torch_channels_last")
LAYERS = (*OPERATIONS, "graphc_exact")
CEILINGS = ("triad", "triad_streaming")
COMPILERS = ("graphc", "torch_compile", "jax")
MEMORY_USERS = ("graphc", "torch", "torch_channels_last", "jax")
