"""What a training run takes where the user says nothing: the size of the images, their channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.dsl.model import Model
from graphc.errors import UserError
from graphc.train.data import load
from graphc.train.network import build_model

# (side, channels) of the data as it lies; pictures in a folder take any size, synthetic data both.
NATURAL: dict[str, tuple[int, int]] = {
    "mnist5k": (28, 1), "digits": (8, 1), "fashion-mnist": (28, 1), "synthetic": (32, 1),
}  # fmt: skip
_SIDE = 32  # VGG halves an image five times
_LARGEST = 512


def choose_model(name: str, data: str, options: Mapping[str, Any]) -> Model:
    """The model for the data; only its number of classes is still its own default.

    Raises:
        UserError: the data cannot be read, or an option is not legal.
    """
    chosen = {"dropout": 0.0, **options}
    side, channels = _natural(data, chosen)
    default = build_model(name, {"image": None if side is None else _LARGEST, **chosen}).settings
    if channels is not None and channels > default.channels:
        chosen.setdefault("channels", channels)
    if side is not None and "image" not in chosen:
        chosen["image"] = fitting_image(name, chosen, side)
    return build_model(name, chosen)


def fitting_image(name: str, options: Mapping[str, Any], natural: int) -> int:
    """The smallest multiple of 32 from ``natural`` on that the model takes.

    Raises:
        UserError: no size will do, because another option will not.
    """
    start = -(-natural // _SIDE) * _SIDE
    for side in range(start, start + _LARGEST, _SIDE):
        try:
            build_model(name, {**options, "image": side})
        except UserError as error:
            refusal = error
        else:
            return side
    raise refusal


def _natural(data: str, options: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The side and channels of the data, None where any will do."""
    if data in NATURAL:
        return NATURAL[data]
    if data.startswith("folder:") or {"image", "channels"} <= set(options):
        return None, None
    _, channels, height, width = load(data, samples=1).train_images.shape
    return max(height, width), channels
