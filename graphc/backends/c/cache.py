"""Compiled libraries on disk, one folder a library, found again by what they were made from.

A folder appears by one rename and is compared with its manifest before use, because loading a
damaged library kills the process. Nobody else may write there, because loading runs what it holds.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from graphc.backends.c.toolchain import Toolchain, compile_timeout
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile

FORMAT = 1
MANIFEST = "manifest.json"

_log = logging.getLogger("graphc")


@dataclass(frozen=True)
class Recipe:
    """Everything that a library is made from; ``net`` has gone through ``net_name``."""

    net: str
    files: tuple[SourceFile, ...]
    toolchain: Toolchain
    link: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if len({name.lower() for name in names}) != len(names):
            raise CompilerBug(f"two generated sources of {self.net} share one name: {names}")
        for name in names:
            if re.fullmatch(r"[A-Za-z0-9_]+\.[ch]", name) is None:
                raise CompilerBug(f"a generated source of {self.net} has the name {name!r}")

    @cached_property
    def content(self) -> dict[str, object]:
        """The ingredients as the manifest lists them."""
        return {
            "format": FORMAT,
            "graphc": graphc_version(),
            "net": self.net,
            "toolchain": asdict(self.toolchain),
            "link": self.link,
            "files": {file.name: _sha256(file.text.encode()) for file in self.files},
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the ingredients, 64 hexadecimal digits."""
        return _key(self.content)

    @property
    def folder_name(self) -> str:
        """The name of the entry: the net and the first 16 digits of the key."""
        return f"{self.net}-{self.key[:16]}"

    @property
    def library_name(self) -> str:
        """The name of the library inside the entry."""
        return f"{self.net}.so"

    def manifest(self, library_sha256: str) -> str:
        """The whole text of the manifest; a byte that differs from it is damage."""
        library = {"name": self.library_name, "sha256": library_sha256}
        return json.dumps({"key": self.key, "library": library, **self.content}, indent=1) + "\n"


def net_name(net: str) -> str:
    """A user's name for a network as 1 to 40 of the characters a-z, 0-9 and underscore."""
    return re.sub(r"[^a-z0-9]+", "_", net[:400].lower()).strip("_")[:40] or "net"


def build_root() -> Path:
    """The folder that holds the entries, made if missing and safe to load from.

    GRAPHC_BUILD_DIR if set. Else ``./build/graphc`` if the current folder is a project (it has a
    pyproject.toml or a .git) with a folder ``build``. Else the cache folder of the user.
    Raises UserError for a folder that somebody else could write to, or that we cannot make.
    """
    root = _choose_root(Path.cwd())
    with storage(root, "create"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(root)
    return root


def is_intact(entry: Path, recipe: Recipe) -> bool:
    """Whether an entry is, byte for byte, what the recipe gave when it was published."""
    try:
        manifest = recipe.manifest(_sha256((entry / recipe.library_name).read_bytes()))
        if (entry / MANIFEST).read_bytes() != manifest.encode():
            return False
        return all((entry / file.name).read_bytes() == file.text.encode() for file in recipe.files)
    except OSError:
        return False


@contextlib.contextmanager
def key_lock(root: Path, key: str) -> Iterator[bool]:
    """Let one process at a time build a key; gives False if the lock could not be had.

    The lock ends with its holder. Should something still keep it for longer than a compilation may
    take, the caller goes on without it: entries are published whole, so work is only done twice.
    """
    locks = root / ".locks"
    with storage(locks, "create"):
        locks.mkdir(mode=0o700, exist_ok=True)
        lock = filelock.FileLock(locks / key[:16], timeout=compile_timeout())
        try:
            lock.acquire()
            held = True
        except (filelock.Timeout, NotImplementedError):
            _log.warning("%s is locked by another process; building without the lock", locks / key)
            held = False
    try:
        yield held
    finally:
        lock.release()


@contextlib.contextmanager
def staging(root: Path, recipe: Recipe) -> Iterator[Path]:
    """A private folder with the sources in it, which is gone afterwards unless it was renamed."""
    with storage(root, "create a folder in"):
        folder = Path(tempfile.mkdtemp(prefix=_staging_prefix(recipe), dir=root))
    try:
        with storage(folder, "write"):
            for file in recipe.files:
                (folder / file.name).write_bytes(file.text.encode())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, entry: Path, recipe: Recipe) -> None:
    """Turn a staged folder with its library into the entry, durably and in one step."""
    with storage(entry, "write"):
        digest = _sha256((folder / recipe.library_name).read_bytes())
        (folder / MANIFEST).write_text(recipe.manifest(digest), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            _sync(path)
        _sync(folder)
        _take_name(folder, entry, recipe)
        _sync(entry.parent)


def discard_leftovers(root: Path, recipe: Recipe) -> None:
    """Remove a damaged entry and what a killed build of this key left; call under its lock."""
    entry = root / recipe.folder_name
    if os.path.lexists(entry):
        _log.warning("%s is damaged or was changed by hand; it is built again", entry)
        with storage(entry, "remove"):
            _remove(entry, recipe)
    for path in root.glob(f"{_staging_prefix(recipe)}*"):
        shutil.rmtree(path, ignore_errors=True)


def keep_failed(folder: Path, root: Path, recipe: Recipe) -> Path:
    """Keep the staged folder of a failed build where a person can look at it."""
    kept = failed_folder(root, recipe)
    with storage(kept, "write"):
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
    return kept


def failed_folder(root: Path, recipe: Recipe) -> Path:
    """Where the sources of a failed build of this key are kept."""
    return root / f"failed-{recipe.key[:16]}"


def checked_manifest(path: Path) -> dict[str, Any]:
    """The ingredients of a library, if it agrees with its manifest and the name of its folder.

    Raises ToolchainError if it does not: loading it could end the process.
    """
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content: dict[str, Any] = json.loads((path.parent / MANIFEST).read_bytes())
        key, library = content.pop("key"), content.pop("library")
        if (
            key == _key(content)
            and path.parent.name == f"{content['net']}-{key[:16]}"
            and library == {"name": path.name, "sha256": _sha256(path.read_bytes())}
        ):
            return content
    raise ToolchainError(
        f"{path} is damaged: it is missing or differs from the {MANIFEST} beside it\n"
        f"  It was not loaded. Run again to have it built again, or remove {path.parent}."
    )


@contextlib.contextmanager
def storage(path: Path, action: str) -> Iterator[None]:
    """Turn a failure of the file system into a UserError with the path and the errno."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        raise UserError(
            f"cannot {action} {path}: {error.strerror} ({name}, errno {error.errno})\n"
            "  Free some space there, or set GRAPHC_BUILD_DIR to a folder you can write to."
        ) from error


def _choose_root(here: Path) -> Path:
    asked = os.environ.get("GRAPHC_BUILD_DIR", "").strip()
    if asked:
        return Path(os.path.abspath(os.path.expanduser(asked)))
    if (here / "build").is_dir() and any((here / x).exists() for x in ("pyproject.toml", ".git")):
        return here / "build" / "graphc"
    return Path(platformdirs.user_cache_dir("graphc", appauthor=False)) / "build"


def _check_ours(root: Path) -> None:
    with storage(root, "read"):
        facts = root.lstat()
    if stat.S_ISLNK(facts.st_mode):
        problem, remedy = "is a symbolic link", f"name the folder itself: {root.resolve()}"
    elif facts.st_uid != os.geteuid():
        problem, remedy = f"belongs to the user {facts.st_uid}", "choose a folder of your own"
    elif facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem, remedy = "can be written to by other users", f"run chmod go-w {root}"
    else:
        return
    raise UserError(
        f"the build folder {root} {problem}; whoever writes there could run code as you\n"
        f"  To correct it, {remedy}, or set GRAPHC_BUILD_DIR to another folder."
    )


def _take_name(folder: Path, entry: Path, recipe: Recipe) -> None:
    try:
        os.rename(folder, entry)
    except OSError:
        if is_intact(entry, recipe):  # published meanwhile by a process that built without the lock
            return
        if not os.path.lexists(entry):
            raise
        _remove(entry, recipe)
        os.rename(folder, entry)


def _remove(entry: Path, recipe: Recipe) -> None:
    """The name goes first, so that nobody finds half an entry."""
    doomed = Path(tempfile.mkdtemp(prefix=_staging_prefix(recipe), dir=entry.parent))
    os.rename(entry, doomed / "entry")
    shutil.rmtree(doomed, ignore_errors=True)


def _staging_prefix(recipe: Recipe) -> str:
    return f".staging-{recipe.key[:16]}-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _key(content: dict[str, object]) -> str:
    return _sha256(json.dumps(content).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def graphc_version() -> str:
    """The installed version, which a cached result depends on."""
    try:
        return metadata.version("graphc-compiler")
    except metadata.PackageNotFoundError:
        return "not installed"
