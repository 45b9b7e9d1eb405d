"""Fit a dataset to a network: the size and the channels it takes, and pixels made float32.

Sizes change on uint8, so that the statistics are exact integer sums over 256 grey levels and
normalising is one look-up; the result is the same on every machine and with any thread count.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError
from graphc.train.dataset import Dataset, Images, check_memory

PAD_LIMIT = 1.25
"""Images are padded up to so many times their larger side (28 -> 32), beyond that resized."""

LEVELS = 256
CHUNK = 256


def fit(dataset: Dataset, *, image: int | None, channels: int | None) -> Dataset:
    """The dataset as float32 [samples, channels, image, image], normalised.

    uint8 images are padded by zeros around (PAD_LIMIT) or resized, bilinearly, then normalised
    channel by channel with the mean and the standard deviation of the training set alone. Grey
    images repeat for every channel wanted, as a read-only view that takes no memory. None keeps
    what the images have. float32 images are taken as they are and must fit.

    Raises:
        UserError: when the channels do not fit or the result would not fit into memory.
    """
    _, source_channels, height, width = dataset.train_images.shape
    channels = source_channels if channels is None else channels
    size = (height, width) if image is None else (image, image)
    if source_channels not in (1, channels):
        raise UserError(
            f"{dataset.name}: images have {source_channels} channels, the network takes {channels}"
        )
    if dataset.train_images.dtype == np.float32:
        return _as_they_are(dataset, size, channels)
    count = len(dataset.train_images) + len(dataset.test_images)
    # A byte and a float a pixel live at the same time.
    check_memory(
        5 * count * source_channels * size[0] * size[1],
        f"{dataset.name}: {count} images of {source_channels} x {size[0]} x {size[1]}",
    )
    return _normalised(_resized(dataset, size), channels)


def _as_they_are(dataset: Dataset, size: tuple[int, int], channels: int) -> Dataset:
    """Float images, which no step may change, with the statistics of no change."""
    if dataset.train_images.shape[2:] != size:
        raise UserError(
            f"{dataset.name}: float32 images are {dataset.train_images.shape[2:]}, expected {size}"
        )
    return replace(
        dataset,
        train_images=_repeated(dataset.train_images.astype(np.float32, copy=False), channels),
        test_images=_repeated(dataset.test_images.astype(np.float32, copy=False), channels),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def _resized(dataset: Dataset, size: tuple[int, int]) -> Dataset:
    return replace(
        dataset,
        train_images=resized(dataset.train_images, size),
        test_images=resized(dataset.test_images, size),
    )


def resized(images: Images, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """uint8 [samples, channels, height, width] at another (height, width).

    An image that grows by at most PAD_LIMIT keeps its pixels and is centred in zeros; where the
    border is odd, the extra line is at the bottom or right. Any other is resized bilinearly, with
    the filter widened where it shrinks (as Pillow does), and rounded to whole grey levels.
    """
    pixels = images.astype(np.uint8, copy=False)
    old = images.shape[2:]
    if old == size:
        return pixels
    border = (size[0] - old[0], size[1] - old[1])
    if min(border) >= 0 and max(size) <= PAD_LIMIT * max(old):
        around = [(extra // 2, extra - extra // 2) for extra in border]
        return np.pad(pixels, [(0, 0), (0, 0), *around])
    rows, columns = bilinear(old[0], size[0]), bilinear(old[1], size[1]).T
    result = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for start in range(0, len(images), CHUNK):
        part = pixels[start : start + CHUNK].astype(np.float32)
        result[start : start + CHUNK] = np.rint(rows @ part @ columns)
    return result


def bilinear(old: int, new: int) -> npt.NDArray[np.float32]:
    """The matrix [new, old] that resizes a line: a triangle around each new pixel's centre."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(old) - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    total: npt.NDArray[np.float64] = weights.sum(axis=1)
    return (weights / total[:, None]).astype(np.float32)


def _normalised(dataset: Dataset, channels: int) -> Dataset:
    """uint8 made float32 by the statistics of the training set."""
    mean, std = statistics(dataset.train_images)
    # Images of one grey level have no deviation to divide by; they become zeros.
    divisor = np.where(std > 0, std, 1.0)
    levels = np.arange(LEVELS)
    table = ((levels - mean[:, None]) / divisor[:, None]).astype(np.float32)
    repeats = channels // len(mean)
    return replace(
        dataset,
        train_images=_repeated(_looked_up(table, dataset.train_images), channels),
        test_images=_repeated(_looked_up(table, dataset.test_images), channels),
        mean=tuple(mean.tolist()) * repeats,
        std=tuple(divisor.tolist()) * repeats,
    )


def statistics(images: Images) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation [channels] of uint8 images, from exact counts of grey levels."""
    counts = np.zeros((images.shape[1], LEVELS), dtype=np.int64)
    for start in range(0, len(images), CHUNK):
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + CHUNK, channel].ravel(), minlength=LEVELS)
    levels = np.arange(LEVELS)
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)


def _looked_up(table: npt.NDArray[np.float32], images: Images) -> npt.NDArray[np.float32]:
    """Every pixel's entry in the table [channels, levels]."""
    result = np.empty(images.shape, dtype=np.float32)
    for channel, entries in enumerate(table):
        result[:, channel] = entries[images[:, channel]]
    return result


def _repeated(images: npt.NDArray[np.float32], channels: int) -> npt.NDArray[np.float32]:
    """One channel seen as many; more than one is already what is wanted."""
    if images.shape[1] == channels:
        return images
    return np.broadcast_to(images, (len(images), channels, *images.shape[2:]))
