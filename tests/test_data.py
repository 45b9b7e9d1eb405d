"""Data on its way to a network: fitting, orders, batches, and counting hits."""

import numpy as np
import pytest
from PIL import Image

from graphc.errors import UserError
from graphc.train import dataset as dataset_module
from graphc.train.data import Dataset, batches, evaluation_batches, load
from graphc.train.fit import fit, resized, statistics
from graphc.train.metrics import top_k
from graphc.train.order import permutation, stratified_split, subset


def tiny(train=10, test=4, *, shape=(1, 4, 4)):
    rng = np.random.default_rng(1)
    make = [rng.integers(0, 256, (n, *shape)).astype(np.uint8) for n in (train, test)]
    labels = [np.arange(n) % 2 for n in (train, test)]
    return Dataset("tiny", make[0], labels[0], make[1], labels[1], classes=2)


# --- fitting to a network ----------------------------------------------------------------------


def test_small_growth_is_padded_in_the_centre():
    images = np.full((1, 1, 28, 28), 9, dtype=np.uint8)
    grown = resized(images, (32, 32))
    assert grown.sum() == images.sum() and (grown[0, 0, 2:30, 2:30] == 9).all()
    assert resized(images, (29, 29))[0, 0, :28, :28].min() == 9  # the odd line is below and right


@pytest.mark.parametrize(
    ("old", "new"), [((8, 8), (32, 32)), ((28, 28), (16, 16)), ((9, 6), (7, 7))]
)
def test_resizing_agrees_with_pillow(old, new):
    images = np.random.default_rng(2).integers(0, 256, (3, 2, *old)).astype(np.uint8)
    both = zip(resized(images, new).reshape(-1, *new), images.reshape(-1, *old), strict=True)
    for ours, pixels in both:
        theirs = Image.fromarray(pixels).resize(new[::-1], Image.Resampling.BILINEAR)
        difference = ours.astype(int) - np.asarray(theirs)
        assert np.abs(difference).max() <= 1  # Pillow rounds twice
        assert abs(difference.mean()) < 0.2  # neither rounds down


def test_statistics_come_from_the_training_set_alone():
    data = tiny(shape=(3, 4, 4))
    fitted = fit(data, image=None, channels=None)
    mean = data.train_images.mean(axis=(0, 2, 3), dtype=np.float64)
    std = data.train_images.std(axis=(0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose([fitted.mean, fitted.std], [mean, std], rtol=1e-12)
    for raw, ready in (
        (data.train_images, fitted.train_images),
        (data.test_images, fitted.test_images),
    ):
        expected = (raw - mean[:, None, None]) / std[:, None, None]
        np.testing.assert_allclose(ready, expected, rtol=1e-6, atol=1e-6)


def test_grey_repeats_for_each_channel_and_colour_does_not_shrink():
    fitted = fit(tiny(), image=5, channels=3)
    assert fitted.train_images.shape == (10, 3, 5, 5) and len(fitted.mean) == 3
    np.testing.assert_array_equal(fitted.train_images[:, 0], fitted.train_images[:, 2])
    with pytest.raises(UserError, match="3 channels, the network takes 1"):
        fit(tiny(shape=(3, 4, 4)), image=None, channels=1)


def test_images_of_one_level_become_zeros():
    flat = np.full((4, 1, 2, 2), 7, dtype=np.uint8)
    assert statistics(flat)[1] == [0.0]
    fitted = fit(
        Dataset("flat", flat, np.zeros(4, int), flat, np.zeros(4, int), 1),
        image=None,
        channels=None,
    )
    assert not fitted.train_images.any()


def test_more_than_memory_is_refused_before_it_is_allocated(monkeypatch):
    with pytest.raises(UserError, match="GiB of memory"):
        load("synthetic", image=1024, samples=10**9)
    monkeypatch.setattr(dataset_module, "physical_memory", lambda: 1000)
    with pytest.raises(UserError, match="tiny: 14 images of 1 x 8 x 8 needs"):
        fit(tiny(), image=8, channels=1)


# --- orders and batches ------------------------------------------------------------------------


def test_orders_are_permutations_that_never_change():
    assert permutation(8, seed=1, stream=2).tolist() == PERMUTATION  # a promise on every NumPy
    assert sorted(permutation(1000, seed=5)) == list(range(1000))
    assert subset(10, None, seed=0).tolist() == list(range(10)) == subset(10, 99, seed=0).tolist()
    with pytest.raises(UserError, match="class 1 has one sample"):
        stratified_split(np.array([0, 0, 1]))


PERMUTATION = [4, 2, 0, 6, 1, 5, 7, 3]


def test_batches_are_exact_fresh_and_repeatable():
    data = fit(tiny(), image=4, channels=3)
    take = lambda **how: list(batches(data.train_images, data.train_labels, 4, **how))  # noqa: E731
    first = take(epoch=0, seed=1)
    assert [x.shape for x, _ in first] == [(4, 3, 4, 4)] * 2  # two of ten samples are left out
    for pixels, labels in first:
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous and pixels.flags.owndata
        assert labels.dtype == np.int64 and labels.shape == (4,)
    for (a, b), (c, d) in zip(first, take(epoch=0, seed=1), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    assert not np.array_equal(first[0][0], take(epoch=1, seed=1)[0][0])
    assert not np.array_equal(first[0][0], take(epoch=0, seed=2)[0][0])
    plain = take(epoch=0, seed=1, shuffle=False)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in plain]), data.train_images[:8])


def test_batches_keep_each_label_with_its_image():
    images = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)
    seen = []
    for pixels, labels in batches(images, np.arange(20), 5, epoch=7, seed=3):
        np.testing.assert_array_equal(pixels.ravel(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(20)) and seen != list(range(20))


def test_batches_that_cannot_be_filled_are_refused_at_the_call():
    data = tiny()
    for batch, message in ((11, "cannot be filled from 10"), (0, "at least 1")):
        with pytest.raises(UserError, match=message):
            batches(data.train_images, data.train_labels, batch, epoch=0, seed=0)
    with pytest.raises(UserError, match="10 images, but 4 labels"):
        batches(data.train_images, data.test_labels, 2, epoch=0, seed=0)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_evaluation_sees_every_sample_once(batch):
    data = tiny()
    images, labels = [], []
    for pixels, targets, count in evaluation_batches(data.train_images, data.train_labels, batch):
        assert pixels.shape == (batch, 1, 4, 4) and pixels.dtype == np.float32
        assert not pixels[count:].any() and not targets[count:].any()
        images.append(pixels[:count])
        labels.append(targets[:count])
    np.testing.assert_array_equal(np.concatenate(images), data.train_images)
    np.testing.assert_array_equal(np.concatenate(labels), data.train_labels)


# --- metrics -----------------------------------------------------------------------------------


def test_top_k_agrees_with_sorting():
    logits = np.random.default_rng(4).integers(0, 4, (200, 6)).astype(np.float32)  # many ties
    labels = np.random.default_rng(5).integers(0, 6, 200)
    ranked = np.argsort(-logits, axis=1, kind="stable")
    for k in (1, 2, 5, 6, 100):
        assert top_k(logits, labels, k) == (ranked[:, :k] == labels[:, None]).any(axis=1).sum()


def test_top_k_ties_nan_and_infinity():
    assert top_k(np.zeros((3, 5)), np.array([0, 1, 4]), 2) == 2
    bad = np.array([[np.nan, 0.0], [0.0, np.nan], [np.inf, -np.inf]])
    assert top_k(bad, np.array([0, 0, 0]), 2) == 1


def test_top_k_refuses_what_does_not_fit():
    for logits, labels, k in (
        (np.zeros((2, 3)), np.array([0, 3]), 1),
        (np.zeros((2, 3)), np.array([0, -1]), 1),
        (np.zeros((2, 3)), np.array([0]), 1),
        (np.zeros(3), np.array([0, 1, 2]), 1),
        (np.zeros((2, 3)), np.array([0, 1]), 0),
    ):
        with pytest.raises(UserError):
            top_k(logits, labels, k)
