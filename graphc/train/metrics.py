"""How good predictions are, counted so that no order of equal numbers can change the count."""

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError


def top_k(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], k: int) -> int:
    """How many samples have their label among the k largest of their logits.

    Of equal logits the one of the lower class ranks first, so a network whose logits are all equal
    is right only where the label is below k. A row that holds a NaN is wrong. k beyond the number
    of classes counts as that number.

    Args:
        logits: [samples, classes], of any floating type.
        labels: [samples], in 0..classes-1.
        k: at least 1.

    Raises:
        UserError: when the shapes do not fit, a label is no class, or k is below 1.
    """
    _check(logits, labels, k)
    classes = np.arange(logits.shape[1])
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    hit = before.sum(axis=1) < min(k, len(classes))
    return int(np.count_nonzero(hit & ~np.isnan(logits).any(axis=1)))


def _check(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], k: int) -> None:
    if k < 1:
        raise UserError(f"top-k needs k of at least 1, got {k}")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UserError(
            "expected logits [samples, classes] and labels [samples], "
            f"got {logits.shape} and {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise UserError(
            f"a label is outside 0..{logits.shape[1] - 1}: {labels.min()} or {labels.max()}"
        )
