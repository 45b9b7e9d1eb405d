"""What tuning chose, in one JSON file a machine and tool chain beside the compiled libraries.

The first choice for a kernel also fixes its arithmetic: another number of threads may be given
other blocks, but the same roundings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphc.backends.c.cache import graphc_version, key_lock, storage
from graphc.backends.c.toolchain import Toolchain
from graphc.ir.blocks import ContractionBlocks, TileBlocks

FORMAT = 1
_log = logging.getLogger("graphc")


@dataclass(frozen=True)
class Chosen:
    """The way to compute a kernel, and what was measured; times in seconds.

    Attributes:
        outputs: of the tile algorithms, one a dimension; none for the sum as it stands.
        contraction_blocks, tile_blocks: the blocks of a ``KernelPlan``.
        arithmetic: what decides the roundings.
        tried: how many variants it was chosen from.
    """

    outputs: tuple[int, ...]
    contraction_blocks: ContractionBlocks
    tile_blocks: TileBlocks | None
    arithmetic: str
    seconds: float
    default_seconds: float
    tried: int


class Choices:
    """Choices by signature and number of threads; what is added is on disk at once."""

    def __init__(self, root: Path, toolchain: Toolchain) -> None:
        self._root = root
        made_from = {"format": FORMAT, "graphc": graphc_version(), "toolchain": asdict(toolchain)}
        self._made_from = json.loads(json.dumps(made_from))
        self._key = _digest(self._made_from)
        self.path = root / f"tuning-{self._key[:16]}.json"
        self._kernels = self._read()

    def find(self, signature: str, threads: int) -> Chosen | None:
        """What was chosen for so many threads."""
        return self._kernels.get(signature, {}).get(threads)

    def first(self, signature: str) -> Chosen | None:
        """What was chosen first, for any number of threads."""
        return next(iter(self._kernels.get(signature, {}).values()), None)

    def add(self, signature: str, threads: int, choice: Chosen) -> Chosen:
        """Keep a choice, unless another process was first; gives back the one that stands."""
        with key_lock(self._root, self._key):
            self._kernels = self._read()
            first = self.first(signature)
            if first is not None and first.arithmetic != choice.arithmetic:
                return first
            kept = self._kernels.setdefault(signature, {}).setdefault(threads, choice)
            self._write()
        return kept

    def _read(self) -> dict[str, dict[int, Chosen]]:
        """What is on disk; a file that is damaged counts as none."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["key"] != self._made_from or document["sha256"] != _digest(
                document["kernels"]
            ):
                raise ValueError("its checksum is wrong")
            return {
                signature: {int(threads): _chosen(given) for threads, given in found.items()}
                for signature, found in document["kernels"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is damaged (%s); tuning starts afresh", self.path, error)
            return {}

    def _write(self) -> None:
        kernels = {
            signature: {str(threads): asdict(choice) for threads, choice in found.items()}
            for signature, found in self._kernels.items()
        }
        kernels = json.loads(json.dumps(kernels))
        document = {"key": self._made_from, "sha256": _digest(kernels), "kernels": kernels}
        with storage(self.path, "write"):
            descriptor, name = tempfile.mkstemp(prefix=".tuning-", dir=self._root)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(json.dumps(document, indent=1) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                os.unlink(name)
                raise


def _chosen(given: dict[str, Any]) -> Chosen:
    blocks = given["tile_blocks"]
    return Chosen(
        tuple(given["outputs"]), ContractionBlocks(**given["contraction_blocks"]),
        None if blocks is None else TileBlocks(**blocks), str(given["arithmetic"]),
        float(given["seconds"]), float(given["default_seconds"]), int(given["tried"]),
    )  # fmt: skip


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
