"""VGG (Simonyan and Zisserman 2014): stages of 3x3 convolutions, each halved by a 2x2 maximum."""

from __future__ import annotations

from graphc.dsl.layers import BatchNorm2d, Conv2d, Layer, MaxPool2d, ReLU
from graphc.dsl.model import Image, Model, Scheme, Settings, dense_head, places_left, settings

_CHANNELS = (64, 128, 256, 512, 512)


def vgg11(
    *, image: Image = 224, channels: int = 3, classes: int = 1000, batch_norm: bool = False,
    head: int = 4096, dropout: float = 0.5, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """VGG11, configuration A; arguments as for ``vgg16``."""
    chosen = settings(
        "vgg11", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    return _vgg(chosen, (1, 1, 2, 2, 2))


def vgg13(
    *, image: Image = 224, channels: int = 3, classes: int = 1000, batch_norm: bool = False,
    head: int = 4096, dropout: float = 0.5, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """VGG13, configuration B; arguments as for ``vgg16``."""
    chosen = settings(
        "vgg13", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    return _vgg(chosen, (2, 2, 2, 2, 2))


def vgg16(
    *, image: Image = 224, channels: int = 3, classes: int = 1000, batch_norm: bool = False,
    head: int = 4096, dropout: float = 0.5, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """VGG16, configuration D: layers conv1_1 .. conv5_3, pool1 .. pool5, fc6, fc7, fc8.

    Args:
        image: height and width, at least 32; one number for squares.
        channels: of the images.
        classes: number of logits.
        batch_norm: put a batch normalisation after every convolution.
        head: width of the two hidden dense layers.
        dropout: rate after each of them while training; 0 leaves the layers out.
        init: "he" for He-normal weights everywhere, "torchvision" for the scheme of its models
            (convolutions by fan_out, dense layers normal with deviation 0.01). Biases are 0.
        width: factor of all numbers of channels, for narrow nets.
        dtype: "float32" or "float64".
        seed: of the dropout masks.

    Raises:
        UserError: an argument is not legal or the image is too small.
    """
    chosen = settings(
        "vgg16", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    return _vgg(chosen, (2, 2, 3, 3, 3))


def vgg19(
    *, image: Image = 224, channels: int = 3, classes: int = 1000, batch_norm: bool = False,
    head: int = 4096, dropout: float = 0.5, init: Scheme = "he", width: float = 1.0,
    dtype: str = "float32", seed: int = 0,
) -> Model:  # fmt: skip
    """VGG19, configuration E; arguments as for ``vgg16``."""
    chosen = settings(
        "vgg19", image, channels, classes, batch_norm, head, dropout, init, width, dtype, seed
    )
    return _vgg(chosen, (2, 2, 4, 4, 4))


def _vgg(chosen: Settings, depths: tuple[int, ...]) -> Model:
    layers: list[Layer] = []
    channels, flat = chosen.channels, places_left(chosen, [(2, 2, 0)] * len(depths))
    for stage, depth in enumerate(depths, 1):
        for number in range(1, depth + 1):
            width = chosen.scaled(_CHANNELS[stage - 1])
            layers += _convolution(chosen, f"{stage}_{number}", channels, width)
            channels = width
        layers.append(MaxPool2d(f"pool{stage}", 2))
    head = dense_head(chosen, channels * flat, (chosen.head, chosen.head), first=6)
    return Model(chosen, [*layers, *head])


def _convolution(chosen: Settings, place: str, channels: int, width: int) -> list[Layer]:
    conv = Conv2d(
        f"conv{place}", channels, width, 3, padding=1,
        weight_init=chosen.conv_init(), dtype=chosen.dtype,
    )  # fmt: skip
    norm = [BatchNorm2d(f"norm{place}", width, dtype=chosen.dtype)] if chosen.batch_norm else []
    return [conv, *norm, ReLU(f"relu{place}")]
