"""How products are cut for registers, caches and cores: decided by rules, overridden by tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resident = Literal["rows", "columns", "none"]


@dataclass(frozen=True)
class TileBlocks:
    """How a tiled product is cut: ``tiles``, ``columns`` and ``rows`` of one task, ``pieces`` of
    the tiles summed on their own, and the rows and vectors of the register block. Where tiles of
    positions are finished, ``rows`` are the channels that are summed in registers.
    """

    tiles: int
    columns: int
    rows: int
    pieces: int
    register_rows: int
    vectors: int


@dataclass(frozen=True)
class ContractionBlocks:
    """Limits of the blocks of a contraction; None leaves one to the rules.

    Attributes:
        depth: rows of a packed panel; the depth is cut into equal blocks that are not longer.
        resident: the factor that is packed once, whole, and shared by all tasks.
        rows, panels: rows and column panels of one task.
    """

    depth: int | None = None
    resident: Resident | None = None
    rows: int | None = None
    panels: int | None = None


BY_RULE = ContractionBlocks()
