"""How a finished tile is added up over its rows or columns: four threads a line, then a partial sum
goes to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.grid import TileSums


@dataclass(frozen=True)
class SumLines:
    """The words of a tile's sums.

    Attributes:
        line: what is added up, for people; there are ``lines`` of them.
        kept, added: the numbers of a line, and of its elements, of which there are ``count``.
        places, first, target: lines that say which sum it is, who stores it, and where.
        nothing: takes an element that lies outside of the result out of the sum.
    """

    line: str
    lines: str
    kept: str
    added: str
    count: str
    places: Sequence[str]
    first: str
    target: str
    nothing: str


def sum_lines(
    sums: TileSums, name: str, sizes: tuple[str, str], lanes: int, places: Sequence[str],
    target: str, inside: str,
) -> SumLines:  # fmt: skip
    """The words where rows and columns of a ``name`` are so many.

    Lines of ``places`` declare what ``target`` and ``inside``, the condition of a result, say.
    """
    rows, columns = sizes
    row, column = f"{name}_row", f"{name}_column"
    over_rows = sums.over == "rows"
    lines, count = (columns, rows) if over_rows else (rows, columns)
    kept, added = (column, row) if over_rows else (row, column)
    worker = "part" if name == "tile" else "done"
    tests = [f"{worker} % 4 == 0", *([inside] if inside else [])]
    zeros = f"gc_store_lanes(sums + place, gc_lanes<float, {lanes}>{{}})"
    return SumLines(
        "column" if over_rows else "row", lines, kept, added, count, places,
        " && ".join(tests), target, zeros if lanes > 1 else "sums[place] = 0.0f",
    )  # fmt: skip
