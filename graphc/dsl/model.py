"""A model: layers in a row for images of one size, and what all builders of models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graphc.dsl import init
from graphc.dsl.layers import Dense, Dropout, Flatten, Layer, ReLU, Sequential
from graphc.errors import user_error
from graphc.ir.graph import Initializer, Node
from graphc.ir.types import DType, Shape, element_count
from graphc.ops.leaves import legal_dtype
from graphc.ops.messages import describe
from graphc.ops.windows import per_dimension

Image = int | tuple[int, int]
Scheme = Literal["he", "torchvision"]
Window = tuple[int, int, int]  # extent, stride, padding


@dataclass(frozen=True)
class Settings:
    """What every builder is told; see ``graphc.dsl.models``."""

    name: str
    image: tuple[int, int]
    channels: int
    classes: int
    batch_norm: bool
    head: int
    dropout: float
    scheme: Scheme
    width: float
    dtype: DType
    seed: int

    def scaled(self, channels: int, multiple: int = 1) -> int:
        """Channels times the width, at least ``multiple`` and a multiple of it."""
        return max(1, round(channels * self.width / multiple)) * multiple

    def conv_init(self) -> Initializer:
        """He's by fan_in, or torchvision's by fan_out."""
        return init.he_normal() if self.scheme == "he" else init.he_normal(fan="out")

    def dense_init(self) -> Initializer:
        """He's, or torchvision's normal of deviation 0.01."""
        return init.he_normal() if self.scheme == "he" else init.normal(0.01)


def settings(
    name: str, image: Image, channels: int, classes: int, batch_norm: bool, head: int,
    dropout: float, scheme: Scheme, width: float, dtype: str | DType, seed: int,
) -> Settings:  # fmt: skip
    """The checked settings."""
    height, breadth = per_dimension(name, "image", image, 2, 1)
    for what, value in (("channels", channels), ("classes", classes), ("head", head)):
        per_dimension(name, what, value, 1, 1)
    if scheme not in ("he", "torchvision"):
        raise user_error(f"{name}: init={scheme!r}", "expected 'he' or 'torchvision'")
    if not isinstance(width, int | float) or width <= 0:
        raise user_error(f"{name}: width must be a positive number, here {width!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise user_error(f"{name}: dropout must be in 0 <= rate < 1, here {dropout!r}")
    return Settings(
        name, (height, breadth), channels, classes, batch_norm, head, dropout, scheme, width,
        legal_dtype(name, dtype), seed,
    )  # fmt: skip


def places_left(chosen: Settings, windows: Sequence[Window]) -> int:
    """Places that windows in a row leave of the image, or a UserError with the smallest image."""
    left = [_shrunk(extent, windows) for extent in chosen.image]
    if min(left) < 1:
        smallest = next(n for n in range(1, 10_000) if _shrunk(n, windows) >= 1)
        height, width = chosen.image
        raise user_error(
            f"{chosen.name}: an image of {height}x{width} is too small, nothing is left of it",
            f"the smallest is {smallest}x{smallest}; enlarge the images or use fewer layers",
        )
    return left[0] * left[1]


def _shrunk(extent: int, windows: Sequence[Window]) -> int:
    """Places that are left, 0 where a window does not fit."""
    for size, stride, padding in windows:
        if extent + 2 * padding < size:
            return 0
        extent = (extent + 2 * padding - size) // stride + 1
    return extent


def dense_head(chosen: Settings, features: int, widths: Sequence[int], first: int) -> list[Layer]:
    """Hidden dense layers with relu and dropout, then the logits; numbered from ``first``."""
    layers: list[Layer] = [Flatten("flatten")]
    start, dtype = chosen.dense_init(), chosen.dtype
    for number, width in enumerate(widths, first):
        layers.append(Dense(f"fc{number}", features, width, weight_init=start, dtype=dtype))
        layers.append(ReLU(f"relu{number}"))
        if chosen.dropout:
            layers.append(Dropout(f"drop{number}", chosen.dropout, seed=chosen.seed, stream=number))
        features = width
    last = f"fc{first + len(widths)}"
    layers.append(Dense(last, features, chosen.classes, weight_init=start, dtype=dtype))
    return layers


class Model(Sequential):
    """Layers from images (N, channels, H, W) to logits (N, classes)."""

    def __init__(self, chosen: Settings, layers: Sequence[Layer]) -> None:
        super().__init__(layers)
        self.name = chosen.name
        self.settings = chosen

    def input_shape(self, batch: int) -> Shape:
        """(batch, channels, height, width)."""
        return (batch, self.settings.channels, *self.settings.image)

    @property
    def parameter_count(self) -> int:
        """Number of trained scalars."""
        return sum(element_count(parameter.shape) for parameter in self.parameters)

    def forward(self, x: Node, training: bool) -> Node:
        """Logits (N, classes)."""
        expected = self.input_shape(1)[1:]
        if len(x.shape) != 4 or x.shape[1:] != expected or x.dtype is not self.settings.dtype:
            raise user_error(
                f"{self.name}: the images do not fit the model",
                *describe((x,)),
                f"expected {self.settings.dtype.value} (batch, {', '.join(map(str, expected))}); "
                f"declare gx.input('x', model.input_shape(batch), '{self.settings.dtype.value}')",
            )
        return super().forward(x, training)
