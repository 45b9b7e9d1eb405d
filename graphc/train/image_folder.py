"""Folders of pictures, one folder a class, decoded by Pillow into one array of equal sizes."""

import zlib
from pathlib import Path
from struct import error as StructError

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from graphc.errors import UserError
from graphc.train.dataset import Dataset, Labels, check_memory
from graphc.train.order import stratified_split, subset

SUFFIXES = (".jpeg", ".jpg", ".png")
MODES = {1: "L", 3: "RGB"}
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, StructError, zlib.error)

Files = tuple[list[Path], Labels]


def read_image_folder(
    folder: Path,
    *,
    name: str,
    image: int | None,
    channels: int | None,
    samples: int | None,
    seed: int,
) -> Dataset:
    """The pictures of FOLDER/train/CLASS and FOLDER/test/CLASS, or of FOLDER/CLASS.

    In the second form a fifth of each class is held out, always the same. Classes and files count
    in the order of their names. A picture is turned as its EXIF data says, scaled to cover
    `image` x `image` and cut at its centre; without `image` all must have one size. `channels` is
    1 or 3; not given, 3. At most `samples` of each set, drawn by the seed, are decoded.

    Raises:
        UserError: naming the folder or file that is missing, empty, damaged or of another size.
    """
    channels = 3 if channels is None else channels
    if channels not in MODES:
        raise UserError(f"{name}: pictures have 1 or 3 channels, {channels} were asked for")
    train, test, class_names = _listing(folder)
    train, test = _taken(train, samples, seed), _taken(test, samples, seed)
    size = _size(train[0][0], channels) if image is None else (image, image)
    count = len(train[0]) + len(test[0])
    check_memory(count * channels * size[0] * size[1], f"{name}: {count} pictures of size {size}")
    return Dataset(
        name=name,
        train_images=_decoded(train[0], channels, size, exact=image is None),
        train_labels=train[1],
        test_images=_decoded(test[0], channels, size, exact=image is None),
        test_labels=test[1],
        classes=len(class_names),
        class_names=class_names,
    )


def _listing(folder: Path) -> tuple[Files, Files, tuple[str, ...]]:
    """Training files, held-out files and the names of the classes."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if not (folder / "train").is_dir():
        names = _class_names(folder)
        return *_split(_files(folder, names)), names
    names = _class_names(folder / "train")
    strangers = set(_class_names(folder / "test")) - set(names)
    if strangers:
        raise UserError(
            f"{folder / 'test'}: class {min(strangers)} is not one of the training classes "
            f"{', '.join(names)}"
        )
    return _files(folder / "train", names), _files(folder / "test", names, complete=False), names


def _class_names(folder: Path) -> tuple[str, ...]:
    """The names of the class folders, in order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; it must hold one folder a class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _visible(path))
    if not names:
        raise UserError(f"{folder}: expected one folder a class, found no folder")
    return tuple(names)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _files(folder: Path, names: tuple[str, ...], *, complete: bool = True) -> Files:
    """All pictures with their labels; in a complete set every class has one."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _pictures(folder / name)
        if complete and not found:
            raise UserError(f"{folder / name}: no picture ({', '.join(SUFFIXES)}) in this class")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UserError(f"{folder}: no picture ({', '.join(SUFFIXES)}) in any class")
    return paths, np.array(labels, dtype=np.int64)


def _pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in the order of their names; none without the folder."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if _visible(path))


def _split(files: Files) -> tuple[Files, Files]:
    """A training and a held-out part of files that came as one set."""
    train, test = stratified_split(files[1])
    return _at(files, train), _at(files, test)


def _taken(files: Files, samples: int | None, seed: int) -> Files:
    """At most `samples` of the files."""
    return _at(files, subset(len(files[0]), samples, seed=seed))


def _at(files: Files, indices: npt.NDArray[np.int64]) -> Files:
    paths, labels = files
    return [paths[index] for index in indices], labels[indices]


def _size(path: Path, channels: int) -> tuple[int, int]:
    """Height and width of a picture."""
    height, width = _pixels(path, channels, None).shape[1:]
    return height, width


def _decoded(
    paths: list[Path], channels: int, size: tuple[int, int], *, exact: bool
) -> npt.NDArray[np.uint8]:
    """The pictures as [samples, channels, height, width]; exact ones already have that size."""
    images = np.empty((len(paths), channels, *size), dtype=np.uint8)
    for image, path in zip(images, paths, strict=True):
        pixels = _pixels(path, channels, None if exact else size)
        if pixels.shape != image.shape:
            raise UserError(
                f"{path}: the picture is {pixels.shape[1]} x {pixels.shape[2]} (height x width), "
                f"but others are {size[0]} x {size[1]}; give an image size to scale all to it"
            )
        image[...] = pixels
    return images


def _pixels(path: Path, channels: int, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """One picture as [channels, height, width]."""
    try:
        with Image.open(path) as opened:
            picture = _converted(path, ImageOps.exif_transpose(opened), MODES[channels])
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error
    if size is not None:
        picture = ImageOps.fit(picture, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _converted(path: Path, picture: Image.Image, mode: str) -> Image.Image:
    """The picture in grey or RGB; what does not fit eight bits would be cut, so it is refused."""
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"{path}: expected 8 bits a channel, got a picture of mode {picture.mode}")
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    return picture.convert(mode)
