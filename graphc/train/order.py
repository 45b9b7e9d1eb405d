"""Who comes when: every random order of samples, as a pure function of a seed.

Orders are sorted Philox words, not `Generator.permutation`, whose stream NumPy may change between
releases; so a run can be repeated, and a split stays the same split, on any NumPy.
"""

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError
from graphc.train.dataset import Labels

Indices = npt.NDArray[np.int64]

SPLIT_SEED = 5000
"""The seed of every held-out split; fixed, so that no two runs disagree on what is held out."""

HELD_OUT = 5
"""One in so many samples of each class is held out where a source brings no split of its own."""


def permutation(count: int, *, seed: int, stream: int = 0) -> Indices:
    """The numbers 0..count-1 in the order that the Philox key (seed, stream) gives them.

    Raises:
        UserError: when the seed or the stream is not an unsigned 64-bit number.
    """
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= value < 2**64:
            raise UserError(f"the {name} must be in 0..2**64-1, got {value}")
    words = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def subset(count: int, samples: int | None, *, seed: int) -> Indices:
    """At most `samples` of the numbers 0..count-1, drawn by the seed, in ascending order."""
    if samples is None or samples >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(permutation(count, seed=seed)[:samples])


def stratified_split(labels: Labels) -> tuple[Indices, Indices]:
    """Indices of the training and of the held-out samples, both in a fixed shuffled order.

    Of each class a fifth (rounded down, at least one sample) is held out.

    Raises:
        UserError: when a class has a single sample, which cannot be on both sides.
    """
    shuffled = permutation(len(labels), seed=SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        if len(members) < 2:
            raise UserError(
                f"class {label} has one sample; a split needs two or more in each class"
            )
        # Every fifth: the first fifth would leave the rest with no class in its front.
        held_out[members[min(HELD_OUT, len(members)) - 1 :: HELD_OUT]] = True
    return shuffled[~held_out], shuffled[held_out]
