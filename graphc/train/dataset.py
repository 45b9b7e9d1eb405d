"""The one type every source of data produces: two labelled sets of images, checked once, here.

The guard against arrays larger than memory stands beside it: whoever allocates one asks it first.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split into a training and a held-out set.

    Images are [samples, channels, height, width]: uint8 pixels 0..255 as read from a source, or
    float32 as a network takes them. Labels are int64 in 0..classes-1. `mean` and `std`, one number
    a channel in units of pixels, say how uint8 became float32: (pixel - mean) / std.

    Raises:
        UserError: when the sets do not fit each other or a label is out of range.
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: int
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_set(f"{self.name}: training set", self.train_images, self.train_labels, self.classes)
        _check_set(f"{self.name}: held-out set", self.test_images, self.test_labels, self.classes)
        train, test = self.train_images.shape[1:], self.test_images.shape[1:]
        if train != test:
            raise UserError(
                f"{self.name}: training images are {train} and held-out images {test} "
                "(channels, height, width); both must be equal"
            )


def _check_set(where: str, images: Images, labels: Labels, classes: int) -> None:
    """Images are 4-D and not empty, each has one label, each label names a class."""
    if images.ndim != 4 or images.size == 0:
        raise UserError(
            f"{where}: expected images [samples, channels, height, width], at least one; "
            f"got shape {images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise UserError(f"{where}: {len(images)} images, but labels of shape {labels.shape}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise UserError(
            f"{where}: label {labels[wrong[0]]} of sample {wrong[0]} is outside 0..{classes - 1} "
            f"({wrong.size} such labels)"
        )


def physical_memory() -> int:
    """Bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(size: int, what: str) -> None:
    """Refuse, before allocating, `size` bytes that would take over half of this machine's memory.

    Raises:
        UserError: naming what needs the memory and how to need less.
    """
    limit = physical_memory() // 2
    if size > limit:
        raise UserError(
            f"{what} needs {size / 2**30:.1f} GiB of memory, more than half of what this machine "
            f"has ({limit / 2**30:.1f} GiB is half); take a smaller image size or fewer samples"
        )
