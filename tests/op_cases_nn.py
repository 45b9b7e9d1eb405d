"""Ops of networks as data for the loops over ``OpCase``: convolution, pooling, losses, the rest."""

from __future__ import annotations

from typing import Any

from graphc.ir.graph import Node
from graphc.ops import convolution, losses, normalization, pooling, resample
from graphc.ops.leaves import state
from tests.op_cases import OpCase

try:
    import torch
    import torch.nn.functional as tnf
except ImportError:  # the counterparts below are then not called
    torch = tnf = None  # type: ignore[assignment]

Shape = tuple[int, ...]


def conv(name: str, rank: int, x: Shape, w: Shape, **settings: Any) -> OpCase:
    return OpCase(
        f"conv{rank}d_{name}",
        (x, w, (w[0],)),
        lambda x, w, b: getattr(convolution, f"conv{rank}d")(x, w, b, **settings),
        lambda x, w, b: getattr(torch, f"conv{rank}d")(x, w, b, **settings),
    )


def conv_transpose(name: str, rank: int, x: Shape, w: Shape, **settings: Any) -> OpCase:
    channels = w[1] * settings.get("groups", 1)
    return OpCase(
        f"conv_transpose{rank}d_{name}",
        (x, w, (channels,)),
        lambda x, w, b: getattr(convolution, f"conv_transpose{rank}d")(x, w, b, **settings),
        lambda x, w, b: getattr(torch, f"conv_transpose{rank}d")(x, w, b, **settings),
    )


CONVOLUTIONS = [
    conv("plain", 2, (2, 3, 5, 6), (4, 3, 3, 3)),
    conv("padded", 2, (2, 3, 5, 6), (4, 3, 3, 3), padding=1),
    conv("strided", 2, (2, 3, 7, 8), (4, 3, 3, 2), stride=2, padding=1),
    conv("uneven", 2, (1, 2, 8, 7), (3, 2, 3, 2), stride=(3, 1), padding=(2, 0), dilation=(1, 2)),
    conv("dilated", 2, (2, 3, 7, 8), (2, 3, 3, 3), dilation=2, padding=2),
    conv("groups", 2, (2, 4, 5, 5), (6, 2, 3, 3), groups=2, padding=1),
    conv("depthwise", 2, (2, 3, 5, 5), (3, 1, 3, 3), groups=3, padding=1),
    conv("pointwise", 2, (2, 3, 4, 4), (5, 3, 1, 1)),
    conv("whole_image", 2, (2, 3, 3, 3), (4, 3, 3, 3)),
    conv("one_channel", 2, (1, 1, 5, 5), (1, 1, 3, 3)),
    conv("line", 1, (2, 3, 9), (4, 3, 3), stride=2, padding=1),
    conv("volume", 3, (1, 2, 4, 5, 4), (3, 2, 2, 3, 2), padding=1, stride=2),
    conv_transpose("plain", 2, (2, 3, 4, 3), (3, 4, 3, 3)),
    conv_transpose("strided", 2, (2, 3, 4, 3), (3, 4, 3, 3), stride=2, padding=1, output_padding=1),
    conv_transpose("even", 2, (2, 3, 3, 3), (3, 2, 4, 4), stride=2, padding=1),
    conv_transpose("dilated", 2, (1, 2, 3, 4), (2, 3, 3, 2), stride=3, dilation=2),
    conv_transpose("groups", 2, (1, 4, 3, 3), (4, 3, 3, 3), stride=2, groups=2),
    conv_transpose("line", 1, (2, 3, 5), (3, 2, 3), stride=2),
    conv_transpose("volume", 3, (1, 2, 2, 3, 2), (2, 2, 2, 2, 3), stride=2, padding=1),
]


def pool(name: str, kind: str, rank: int, x: Shape, *window: Any, **settings: Any) -> OpCase:
    theirs = {"max": "max_pool", "mean": "avg_pool"}[kind]
    return OpCase(
        f"{kind}_pool{rank}d_{name}",
        (x,),
        lambda x: getattr(pooling, f"{kind}_pool{rank}d")(x, *window, **settings),
        lambda x: getattr(tnf, f"{theirs}{rank}d")(x, *window, **settings),
        distinct=kind == "max",
    )


def lp(p: float, x: Shape, window: Any, stride: Any = None) -> OpCase:
    # PyTorch takes x ** p without the absolute value, hence the positive domain.
    return OpCase(
        f"lp_pool2d_{p}",
        (x,),
        lambda x: pooling.lp_pool2d(x, window, p=p, stride=stride),
        lambda x: tnf.lp_pool2d(x, p, window, stride=stride),
        domain=(0.1, 2),
    )


POOLS = [
    pool("halves", "max", 2, (2, 3, 6, 4), 2),
    pool("odd_rest", "max", 2, (2, 2, 7, 5), 2),
    pool("overlapping", "max", 2, (2, 2, 7, 7), 3, stride=2),
    pool("padded", "max", 2, (2, 2, 6, 5), 3, stride=2, padding=1),
    pool("slides", "max", 2, (1, 2, 4, 5), 2, stride=1),
    pool("gaps", "max", 2, (1, 2, 8, 8), 2, stride=3),
    pool("oblong", "max", 2, (1, 2, 6, 6), (3, 2), stride=(1, 2)),
    pool("line", "max", 1, (2, 3, 8), 2),
    pool("volume", "max", 3, (1, 2, 4, 4, 6), 2),
    pool("halves", "mean", 2, (2, 3, 6, 4), 2),
    pool("overlapping", "mean", 2, (2, 2, 7, 7), 3, stride=2),
    pool("padded", "mean", 2, (2, 2, 6, 5), 3, stride=2, padding=1),
    pool("inside", "mean", 2, (2, 2, 6, 5), 3, stride=2, padding=1, count_include_pad=False),
    pool("line", "mean", 1, (2, 3, 8), 3, padding=1),
    pool("volume", "mean", 3, (1, 2, 4, 4, 6), 2),
    lp(2, (2, 2, 6, 4), 2),
    lp(3, (2, 2, 5, 5), 3, 1),
    lp(1, (1, 2, 4, 4), 2),
    lp(2.5, (1, 2, 4, 4), 2),
    OpCase(
        "lp_pool2d_signs",
        ((1, 2, 4, 4),),
        lambda x: pooling.lp_pool2d(x, 2, p=3),
        lambda x: tnf.lp_pool2d(x.abs(), 3, 2),
        kinks=(0,),
        margin=0.1,
    ),
    OpCase("global_max_pool", ((2, 3, 4, 5),), pooling.global_max_pool,
           lambda x: x.amax((2, 3)), distinct=True),
    OpCase("global_mean_pool", ((2, 3, 4, 5),), pooling.global_mean_pool,
           lambda x: x.mean((2, 3))),
    OpCase("global_mean_pool_line", ((2, 3, 4),), pooling.global_mean_pool, lambda x: x.mean(2)),
]  # fmt: skip


def zeros_between(x: Any, factors: tuple[int, ...]) -> Any:
    sizes = [extent * f for extent, f in zip(x.shape[2:], factors, strict=True)]
    wide = torch.zeros(*x.shape[:2], *sizes, dtype=x.dtype)
    wide[(slice(None), slice(None), *(slice(None, None, f) for f in factors))] = x
    return wide


RESAMPLING = [
    OpCase("upsample", ((2, 2, 3, 4),), lambda x: resample.upsample(x, 2),
           lambda x: zeros_between(x, (2, 2))),
    OpCase("upsample_uneven", ((1, 2, 3, 4),), lambda x: resample.upsample(x, (3, 1)),
           lambda x: zeros_between(x, (3, 1))),
    OpCase("upsample_line", ((1, 2, 5),), lambda x: resample.upsample(x, 3),
           lambda x: zeros_between(x, (3,))),
    OpCase("downsample", ((2, 2, 7, 6),), lambda x: resample.downsample(x, 2),
           lambda x: x[:, :, ::2, ::2]),
    OpCase("downsample_volume", ((1, 1, 4, 7, 3),), lambda x: resample.downsample(x, (1, 3, 2)),
           lambda x: x[:, :, :, ::3, ::2]),
    OpCase("upsample_nearest", ((2, 2, 3, 4),), lambda x: resample.upsample_nearest(x, (2, 3)),
           lambda x: tnf.interpolate(x, scale_factor=(2, 3), mode="nearest")),
    OpCase("upsample_linear", ((2, 2, 5),), lambda x: resample.upsample_linear(x, 3),
           lambda x: tnf.interpolate(x, scale_factor=3, mode="linear")),
    OpCase("upsample_bilinear", ((2, 2, 3, 4),), lambda x: resample.upsample_linear(x, (2, 3)),
           lambda x: tnf.interpolate(x, scale_factor=(2, 3), mode="bilinear")),
    OpCase("pad", ((2, 3),), lambda x: resample.pad(x, ((1, 0), (2, 1))),
           lambda x: tnf.pad(x, (2, 1, 1, 0))),
    OpCase("pad_constant", ((2, 3),), lambda x: resample.pad(x, ((0, 1), (2, 0)), "constant", 1.5),
           lambda x: tnf.pad(x, (2, 0, 0, 1), value=1.5)),
    OpCase("pad_edge", ((1, 2, 3, 4),),
           lambda x: resample.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), "edge"),
           lambda x: tnf.pad(x, (3, 0, 1, 2), mode="replicate")),
]  # fmt: skip

LOSSES = [
    OpCase("softmax", ((3, 5),), losses.softmax, lambda x: x.softmax(-1)),
    OpCase("softmax_axis", ((3, 5, 2),), lambda x: losses.softmax(x, 1), lambda x: x.softmax(1)),
    OpCase("softmax_huge", ((3, 5),), losses.softmax, lambda x: x.softmax(-1),
           domain=(990, 1000)),
    OpCase("log_softmax", ((3, 5),), losses.log_softmax, lambda x: x.log_softmax(-1)),
    OpCase("cross_entropy", ((4, 5), (4,)), losses.cross_entropy,
           lambda z, y: tnf.cross_entropy(z, y), integers={1: (0, 5)}),
    OpCase("cross_entropy_huge", ((4, 5), (4,)), losses.cross_entropy,
           lambda z, y: tnf.cross_entropy(z, y), integers={1: (0, 5)}, domain=(-900, 900)),
    OpCase("cross_entropy_places", ((2, 5, 3, 2), (2, 3, 2)), losses.cross_entropy,
           lambda z, y: tnf.cross_entropy(z, y), integers={1: (0, 5)}),
    OpCase("squared_error", ((3, 4), (3, 4)), losses.squared_error,
           lambda a, b: tnf.mse_loss(a, b)),
    OpCase("binary_cross_entropy", ((3, 4), (3, 4)), losses.binary_cross_entropy,
           lambda z, y: tnf.binary_cross_entropy_with_logits(z, y)),
    OpCase("binary_cross_entropy_huge", ((3, 4), (3, 4)), losses.binary_cross_entropy,
           lambda z, y: tnf.binary_cross_entropy_with_logits(z, y), domain=(-800, 800)),
    OpCase("one_hot", ((3, 2),), lambda y: losses.one_hot(y, 5, "int64"),
           lambda y: tnf.one_hot(y, 5), integers={0: (0, 5)}, differentiable=False),
]  # fmt: skip


def trained_batch_norm(x: Node, gamma: Node, beta: Node) -> Node:
    mean, var = (state(name, gamma.shape, 0.0, gamma.dtype) for name in ("mean", "var"))
    return normalization.batch_norm(x, gamma, beta, mean, var, training=True)


def fixed_batch_norm(x: Node, gamma: Node, beta: Node, mean: Node, var: Node) -> Node:
    return normalization.batch_norm(x, gamma, beta, mean, var, training=False, eps=1e-3)


def fixed_by_torch(x: Any, *channels: Any) -> Any:
    # PyTorch's own batch_norm gives the running statistics no gradient; the formula does.
    gamma, beta, mean, var = (value[:, None, None] for value in channels)
    return gamma * (x - mean) / torch.sqrt(var + 1e-3) + beta


def group(name: str, x: Shape) -> OpCase:
    return OpCase(
        f"batch_norm_{name}",
        (x, (x[1],), (x[1],)),
        trained_batch_norm,
        lambda x, gamma, beta: tnf.batch_norm(x, None, None, gamma, beta, training=True),
    )


def layer(name: str, x: Shape, count: int) -> OpCase:
    return OpCase(
        f"layer_norm_{name}",
        (x, x[-count:], x[-count:]),
        lambda x, gamma, beta: normalization.layer_norm(x, gamma, beta, count),
        lambda x, gamma, beta: tnf.layer_norm(x, x.shape[-count:], gamma, beta),
    )


NORMALIZATION = [
    group("images", (3, 2, 4, 3)),
    group("rows", (6, 3)),
    group("lines", (2, 3, 5)),
    OpCase("batch_norm_fixed", ((2, 3, 4, 2), (3,), (3,), (3,), (3,)), fixed_batch_norm,
           fixed_by_torch, domain=(0.2, 2)),
    layer("last", (3, 4, 5), 1),
    layer("two", (3, 4, 5), 2),
    OpCase("local_response_norm", ((2, 7, 3, 2),),
           lambda x: normalization.local_response_norm(x, 5, 0.3, 0.75, 2.0),
           lambda x: tnf.local_response_norm(x, 5, 0.3, 0.75, 2.0)),
    OpCase("local_response_norm_even", ((2, 5, 3),),
           lambda x: normalization.local_response_norm(x, 4, 0.5, 0.6),
           lambda x: tnf.local_response_norm(x, 4, 0.5, 0.6)),
]  # fmt: skip

NN_CASES: list[OpCase] = [*CONVOLUTIONS, *POOLS, *RESAMPLING, *LOSSES, *NORMALIZATION]
