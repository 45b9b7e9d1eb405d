"""Networks to start from; the keyword arguments of ``vgg16`` mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable

from graphc.dsl.layers import BatchNorm2d, Conv2d, Layer, LocalResponseNorm, MaxPool2d, ReLU
from graphc.dsl.model import Image, Model, Scheme, Settings, dense_head, places_left, settings
from graphc.dsl.vgg import vgg11, vgg13, vgg16, vgg19


def lenet5(
    *, image: Image = 32, channels: int = 1, classes: int = 10, batch_norm: bool = False,
    head: int = 120, dropout: float = 0.0, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """LeNet-5 (LeCun et al. 1998) with relu and max pooling instead of tanh and trained means.

    Args as for ``vgg16``; the hidden dense layers are ``head`` and 0.7 * ``head`` wide (120, 84).
    """
    chosen = settings(
        "lenet5", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    first, second = chosen.scaled(6), chosen.scaled(16)
    flat = places_left(chosen, [(5, 1, 0), (2, 2, 0), (5, 1, 0), (2, 2, 0)])
    layers = [
        *_stage(chosen, "1", channels, first, 5),
        MaxPool2d("pool1", 2),
        *_stage(chosen, "2", first, second, 5),
        MaxPool2d("pool2", 2),
        *dense_head(chosen, second * flat, (head, max(1, round(0.7 * head))), first=3),
    ]
    return Model(chosen, layers)


def alexnet(
    *, image: Image = 224, channels: int = 3, classes: int = 1000, batch_norm: bool = False,
    head: int = 4096, dropout: float = 0.5, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """AlexNet (Krizhevsky et al. 2012): two groups, local response normalisation, 60,965,224.

    Args as for ``vgg16``; ``batch_norm`` takes the place of the response normalisation.
    """
    chosen = settings(
        "alexnet", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    pool = (3, 2, 0)
    flat = places_left(chosen, [(11, 4, 2), pool, (5, 1, 2), pool, *[(3, 1, 1)] * 3, pool])
    one, two, three, five = (chosen.scaled(c, multiple=2) for c in (96, 256, 384, 256))
    layers = [
        *_stage(chosen, "1", channels, one, 11, stride=4, padding=2, response=True),
        MaxPool2d("pool1", 3, stride=2),
        *_stage(chosen, "2", one, two, 5, padding=2, groups=2, response=True),
        MaxPool2d("pool2", 3, stride=2),
        *_stage(chosen, "3", two, three, 3, padding=1),
        *_stage(chosen, "4", three, three, 3, padding=1, groups=2),
        *_stage(chosen, "5", three, five, 3, padding=1, groups=2),
        MaxPool2d("pool5", 3, stride=2),
        *dense_head(chosen, five * flat, (head, head), first=6),
    ]
    return Model(chosen, layers)


def _stage(
    chosen: Settings, number: str, channels: int, width: int, window: int, *, stride: int = 1,
    padding: int = 0, groups: int = 1, response: bool = False,
) -> list[Layer]:  # fmt: skip
    conv = Conv2d(
        f"conv{number}", channels, width, window, stride=stride, padding=padding, groups=groups,
        weight_init=chosen.conv_init(), dtype=chosen.dtype,
    )  # fmt: skip
    rectify = ReLU(f"relu{number}")
    if chosen.batch_norm:
        return [conv, BatchNorm2d(f"norm{number}", width, dtype=chosen.dtype), rectify]
    if response:  # the paper sums over 5 channels with alpha = 1e-4; ours is a mean
        return [conv, rectify, LocalResponseNorm(f"norm{number}", 5, 5e-4, 0.75, 2.0)]
    return [conv, rectify]


MODELS: dict[str, Callable[..., Model]] = {
    "lenet5": lenet5, "alexnet": alexnet,
    "vgg11": vgg11, "vgg13": vgg13, "vgg16": vgg16, "vgg19": vgg19,
}  # fmt: skip

__all__ = ["MODELS", "Model", "alexnet", "lenet5", "vgg11", "vgg13", "vgg16", "vgg19"]
