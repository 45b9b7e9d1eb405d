"""What is measured: one frozen Case for every operation, with its FLOPs and its bytes.

A case travels to the workers as JSON, so its options are plain numbers, names and lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

PASSES = ("forward", "dgrad", "wgrad")


@dataclass(frozen=True)
class Case:
    """One operation to repeat.

    Attributes:
        section: the part of the suite it belongs to.
        name: how the tables call it.
        kind: vgg16, conv, dense, product, relu, max_pool, batch_norm or sgd.
        what: train or infer for networks, forward, dgrad, wgrad or both (all of these) for
            operations, update for optimizers.
        options: extents and settings of this kind.
        times: how often the operation occurs in VGG16, for weighted sums.
    """

    section: str
    name: str
    kind: str
    what: str
    options: dict[str, Any]
    times: int = 1

    @property
    def key(self) -> str:
        """Unique within a section."""
        return f"{self.name} {self.what}"


# VGG16's distinct convolutions: (first layer's name, channels, filters, image, occurrences).
VGG16_LAYERS = (
    ("conv1_1 3-64 @224", 3, 64, 224, 1),
    ("conv1_2 64-64 @224", 64, 64, 224, 1),
    ("conv2_1 64-128 @112", 64, 128, 112, 1),
    ("conv2_2 128-128 @112", 128, 128, 112, 1),
    ("conv3_1 128-256 @56", 128, 256, 56, 1),
    ("conv3_2 256-256 @56", 256, 256, 56, 2),
    ("conv4_1 256-512 @28", 256, 512, 28, 1),
    ("conv4_2 512-512 @28", 512, 512, 28, 2),
    ("conv5_1 512-512 @14", 512, 512, 14, 3),
)


def vgg16_cases(
    batches: list[int], *, image: int, head: int, classes: int, width: float
) -> list[Case]:
    """Training and inference of the whole network at every batch size."""
    net = {"image": image, "head": head, "classes": classes, "width": width}
    return [
        Case("vgg16", f"batch {batch}", "vgg16", what, {"batch": batch, **net})
        for what in ("train", "infer")
        for batch in batches
    ]


def layer_cases(batch: int = 8) -> list[Case]:
    """Every distinct convolution of VGG16; forward with bias and relu, as in the network."""
    found = []
    for name, channels, filters, image, times in VGG16_LAYERS:
        options = convolution(
            batch, channels, filters, (image,) * 2, (3, 3), padding=1, bias_relu=True
        )
        for what in PASSES:
            # Nobody needs the gradient of the images themselves: it does not count in sums.
            count = 0 if (channels, what) == (3, "dgrad") else times
            found.append(Case("layers", name, "conv", what, options, count))
    return found


def general_cases(batch: int = 8) -> list[Case]:
    """Shapes outside of VGG16: forward and both gradients of each."""
    image = (56, 56)
    shapes = {
        "3x3 stride 2": convolution(batch, 128, 256, image, (3, 3), stride=2, padding=1),
        "1x1": convolution(batch, 256, 256, image, (1, 1)),
        "3x3 groups 2": convolution(batch, 128, 128, image, (3, 3), padding=1, groups=2),
        "3x3 groups 32": convolution(batch, 128, 128, image, (3, 3), padding=1, groups=32),
        "3x3 dilation 2": convolution(batch, 128, 128, image, (3, 3), padding=2, dilation=2),
        "5x5": convolution(batch, 64, 64, image, (5, 5), padding=2),
        "7x7 stride 2, 3 channels": convolution(
            batch, 3, 64, (224, 224), (7, 7), stride=2, padding=3
        ),
        "1-D, 9 taps": convolution(batch, 128, 128, (4096,), (9,), padding=4),
        "3-D, 3x3x3": convolution(batch, 32, 32, (16, 28, 28), (3, 3, 3), padding=1),
        "3x3 depthwise": convolution(batch, 256, 256, image, (3, 3), padding=1, groups=256),
    }
    found = [
        Case("general", name, "conv", what, options)
        for name, options in shapes.items()
        for what in PASSES
    ]
    for size in (1, 8, 256):
        options = {"batch": size, "features": 4096, "outputs": 4096}
        found += [Case("general", f"dense, batch {size}", "dense", w, options) for w in PASSES]
    attention = {"batch": 8 * batch, "rows": 512, "inner": 64, "columns": 512}
    found += [Case("general", "batched product", "product", w, attention) for w in PASSES]
    return found


def memory_cases(batch: int = 8) -> list[Case]:
    """Operations that wait for memory; `both` is the forward pass and the gradients at once."""
    maps = {"batch": batch, "channels": 64, "image": 224}
    smaller = {"batch": batch, "channels": 128, "image": 112}
    weights = {"shapes": [[4096, 4096], *[[512, 512, 3, 3]] * 8]}
    return [
        Case("memory", "relu", "relu", "forward", maps),
        Case("memory", "relu", "relu", "dgrad", maps),
        Case("memory", "max pool 2x2", "max_pool", "forward", maps),
        Case("memory", "max pool 2x2", "max_pool", "both", maps),
        Case("memory", "batch norm", "batch_norm", "forward", smaller),
        Case("memory", "batch norm", "batch_norm", "both", smaller),
        Case("memory", "SGD with momentum", "sgd", "update", weights),
    ]


def convolution(
    batch: int, channels: int, filters: int, image: tuple[int, ...], window: tuple[int, ...], *,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, bias_relu: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The options of a convolution."""
    return {
        "batch": batch, "channels": channels, "filters": filters, "image": list(image),
        "window": list(window), "stride": stride, "padding": padding, "dilation": dilation,
        "groups": groups, "bias_relu": bias_relu,
    }  # fmt: skip


def output_places(options: dict[str, Any]) -> list[int]:
    """Extents of a convolution's result without batch and channels."""
    stride, padding, dilation = (options[k] for k in ("stride", "padding", "dilation"))
    return [
        (extent + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for extent, taps in zip(options["image"], options["window"], strict=True)
    ]


def flops(case: Case) -> int:
    """Multiplications and additions of the direct method; the same for a gradient; 0: none."""
    o = case.options
    if case.kind == "conv":
        results = o["batch"] * o["filters"] * math.prod(output_places(o))
        return 2 * results * o["channels"] // o["groups"] * math.prod(o["window"])
    if case.kind == "dense":
        return 2 * o["batch"] * o["features"] * o["outputs"]
    if case.kind == "product":
        return 2 * o["batch"] * o["rows"] * o["inner"] * o["columns"]
    return 0


def least_bytes(case: Case) -> int:
    """Bytes that must move where nothing stays in a cache, float32; 0 where that says little.

    Batch normalisation must read its input twice in each direction: for the sums over a channel,
    then for the result that needs them.
    """
    o = case.options
    if case.kind == "sgd":
        return 4 * 5 * sum(math.prod(shape) for shape in o["shapes"])
    if case.kind not in ("relu", "max_pool", "batch_norm"):
        return 0
    one_map = 4 * o["batch"] * o["channels"] * o["image"] ** 2
    maps = {
        ("relu", "forward"): 2,  # x in, y out
        ("relu", "dgrad"): 3,  # x, dy in, dx out
        ("max_pool", "forward"): 1.25,  # x in, a quarter out
        ("max_pool", "both"): 2.5,  # x in, y out, dy in, dx out
        ("batch_norm", "forward"): 3,  # x in for the statistics and for y, y out
        ("batch_norm", "both"): 8,  # forward, then x and dy for the sums, x and dy in, dx out
    }[case.kind, case.what]
    return int(maps * one_map)
