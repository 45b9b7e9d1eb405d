"""A strict reader of IDX files, the format of MNIST and its relatives, packed by gzip or plain.

A damaged file is an error that says what is wrong, never a wrong array, and a hostile one cannot
fill the memory: no more is unpacked than its header declares, plus the byte that proves it lies.
"""

import gzip
import math
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphc.errors import UserError
from graphc.train.dataset import Dataset, check_memory

UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20


def read_idx(path: Path, *, rank: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes with `rank` dimensions in one IDX file.

    The file is two zero bytes, the code of the element type, the rank, the extents as big-endian
    32-bit numbers, then the elements in row-major order, and nothing after them.

    Raises:
        UserError: naming the file, what was expected and what came.
    """
    try:
        with _opened(path) as stream:
            shape = _header(stream, path, rank)
            return _elements(stream, path, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    """The file's content, unpacked where its first bytes are those of gzip."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _header(stream: gzip.GzipFile | BufferedReader, path: Path, rank: int) -> tuple[int, ...]:
    """The extents, after the magic number proved to be that of unsigned bytes of this rank."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise UserError(
            f"{path}: not an IDX file: expected it to start with two zero bytes, a type and a "
            f"rank, got {magic.hex(' ') or 'no byte'}"
        )
    if magic[2] != UNSIGNED_BYTE:
        raise UserError(f"{path}: expected unsigned bytes (type 0x08), got type {magic[2]:#04x}")
    if magic[3] != rank:
        raise UserError(f"{path}: expected {rank} dimensions, got {magic[3]}")
    extents = stream.read(4 * rank)
    if len(extents) < 4 * rank:
        raise UserError(f"{path}: expected {4 + 4 * rank} bytes of header, got {4 + len(extents)}")
    return tuple(np.frombuffer(extents, dtype=">u4").tolist())


def _elements(
    stream: gzip.GzipFile | BufferedReader, path: Path, shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """All elements, when there are exactly as many bytes as the extents say."""
    size = math.prod(shape)
    if size == 0:
        raise UserError(f"{path}: holds no element: the header declares shape {shape}")
    check_memory(size, f"{path}: the array of shape {shape} its header declares")
    content = bytearray()
    while chunk := stream.read(min(CHUNK, size + 1 - len(content))):
        content += chunk
    if len(content) != size:
        more = " or more" if len(content) > size else ""
        raise UserError(
            f"{path}: expected {size} bytes after the header (shape {shape}), "
            f"got {len(content)}{more}"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def read_idx_folder(
    folder: Path, *, name: str, classes: int | None, class_names: tuple[str, ...] = ()
) -> Dataset:
    """The dataset of the four IDX files that a folder holds under the names MNIST gave them.

    Images come as uint8 [samples, 1, height, width]. Where `classes` is not given, the training
    labels tell how many there are.

    Raises:
        UserError: when a file is missing or damaged, or images and labels do not fit each other.
    """
    train_images, train_labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=int(train_labels.max()) + 1 if classes is None else classes,
        class_names=class_names,
    )


def _read_pair(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images [samples, 1, height, width] and labels of one part, `train` or `t10k`."""
    images_path = _find(folder, f"{part}-images", 3)
    labels_path = _find(folder, f"{part}-labels", 1)
    images = read_idx(images_path, rank=3)
    labels = read_idx(labels_path, rank=1)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels"
        )
    return images[:, None], labels.astype(np.int64)


def _find(folder: Path, stem: str, rank: int) -> Path:
    """The file of this stem, spelled with a dash or a dot before `idx`, plain or packed."""
    names = [f"{stem}{mark}idx{rank}-ubyte{end}" for end in ("", ".gz") for mark in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: expected the IDX file {names[0]} or {names[0]}.gz, found neither")
