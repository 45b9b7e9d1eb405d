"""The data a network trains on: one call from a short text to arrays, one loop over batches.

Everything here is a pure function of its arguments: a run that stops continues on the same samples.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError
from graphc.train.dataset import Dataset, Images, Labels
from graphc.train.fit import fit
from graphc.train.idx import read_idx_folder
from graphc.train.image_folder import read_image_folder
from graphc.train.order import permutation, subset
from graphc.train.sources import digits, fashion_mnist, mnist5k, synthetic

__all__ = ["SPECS", "Dataset", "batches", "evaluation_batches", "load"]

SPECS = ("mnist5k", "digits", "fashion-mnist", "idx:FOLDER", "folder:FOLDER", "synthetic")
"""What `load` understands."""

SYNTHETIC = {"image": 32, "channels": 3, "classes": 10, "samples": 1024}
"""What synthetic data has where nothing is asked for."""

Batch = tuple[npt.NDArray[np.float32], Labels]


def load(
    spec: str,
    *,
    image: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    seed: int = 0,
    samples: int | None = None,
) -> Dataset:
    """The dataset that `spec` (one of SPECS) names, as float32 ready for a network.

    Args:
        spec: what to load.
        image: height and width the network takes; None keeps the size of the data.
        channels: channels the network takes; None keeps those of the data.
        classes: classes the network tells apart; data may have fewer, never more.
        seed: draws `samples`, and makes the synthetic data; the split never depends on it.
        samples: at most so many training and so many held-out images; None takes all.

    Raises:
        UserError: when the data is missing (with the command that installs it), damaged, does not
            fit the network or does not fit into memory.
    """
    _check_arguments(image=image, channels=channels, classes=classes, samples=samples)
    permutation(0, seed=seed)  # a bad seed is an error for every source
    wanted = {"image": image, "channels": channels, "classes": classes, "samples": samples}
    dataset = _read(spec, wanted, seed)
    if classes is not None and classes < dataset.classes:
        raise UserError(
            f"{spec} has {dataset.classes} classes, but the network tells only {classes} apart"
        )
    return fit(_limited(dataset, samples, seed), image=image, channels=channels)


def _check_arguments(**arguments: int | None) -> None:
    for name, value in arguments.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")


def _read(spec: str, wanted: dict[str, int | None], seed: int) -> Dataset:
    """The dataset as its source has it."""
    kind, _, argument = spec.partition(":")
    folder = Path(argument).expanduser()
    match kind, bool(argument):
        case "mnist5k", False:
            return mnist5k()
        case "digits", False:
            return digits()
        case "fashion-mnist", False:
            return fashion_mnist()
        case "synthetic", False:
            filled = {name: wanted[name] or default for name, default in SYNTHETIC.items()}
            return synthetic(**filled, seed=seed)
        case "idx", True:
            return read_idx_folder(folder, name=spec, classes=wanted["classes"])
        case "folder", True:
            size = {name: wanted[name] for name in ("image", "channels", "samples")}
            return read_image_folder(folder, name=spec, seed=seed, **size)
    raise UserError(f"there is no data named {spec!r}; there is {', '.join(SPECS)}")


def _limited(dataset: Dataset, samples: int | None, seed: int) -> Dataset:
    """At most `samples` images of each set."""
    if samples is None:
        return dataset
    train = subset(len(dataset.train_labels), samples, seed=seed)
    test = subset(len(dataset.test_labels), samples, seed=seed)
    return replace(
        dataset,
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_labels[test],
    )


def batches(
    images: Images, labels: Labels, batch: int, *, epoch: int, seed: int, shuffle: bool = True
) -> Iterator[Batch]:
    """The batches of one training epoch, each of exactly `batch` samples.

    Yields fresh contiguous arrays, float32 [batch, channels, height, width] and int64 [batch]. The
    order depends on (seed, epoch) alone. Samples that do not fill a last batch are left out; where
    the order is shuffled, others are in the next epoch.

    Raises:
        UserError: at the call, when not one batch could be filled.
    """
    _check_batch(images, labels, batch)
    if batch > len(images):
        raise UserError(f"a batch of {batch} samples cannot be filled from {len(images)} samples")
    count = len(images)
    order = permutation(count, seed=seed, stream=epoch) if shuffle else np.arange(count)
    starts = range(0, count - batch + 1, batch)
    return (_gathered(images, labels, order[start : start + batch]) for start in starts)


def evaluation_batches(
    images: Images, labels: Labels, batch: int
) -> Iterator[tuple[npt.NDArray[np.float32], Labels, int]]:
    """Every sample exactly once, in order, in batches of exactly `batch` samples.

    Yields images, labels and how many of them count, from the first: the last batch is filled up
    with images of zeros and the label 0, which the caller leaves out.

    Raises:
        UserError: at the call, when images and labels do not fit each other.
    """
    _check_batch(images, labels, batch)
    starts = range(0, len(images), batch)
    return (_padded(images, labels, start, batch) for start in starts)


def _check_batch(images: Images, labels: Labels, batch: int) -> None:
    if batch < 1:
        raise UserError(f"a batch must have at least 1 sample, got {batch}")
    if len(images) != len(labels):
        raise UserError(f"{len(images)} images, but {len(labels)} labels")


def _gathered(images: Images, labels: Labels, chosen: npt.NDArray[np.int64]) -> Batch:
    pixels = np.ascontiguousarray(images[chosen], dtype=np.float32)
    return pixels, np.ascontiguousarray(labels[chosen], dtype=np.int64)


def _padded(
    images: Images, labels: Labels, start: int, batch: int
) -> tuple[npt.NDArray[np.float32], Labels, int]:
    count = min(batch, len(images) - start)
    pixels = np.zeros((batch, *images.shape[1:]), dtype=np.float32)
    targets = np.zeros(batch, dtype=np.int64)
    pixels[:count] = images[start : start + count]
    targets[:count] = labels[start : start + count]
    return pixels, targets, count
