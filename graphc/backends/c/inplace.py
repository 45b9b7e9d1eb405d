"""Products of few rows: the columns are read where they lie, long runs of neighbours in turn."""

from __future__ import annotations

from graphc.backends.c.packing import decode_lines
from graphc.backends.c.printer import index_text
from graphc.ir.index import axis_index, constant
from graphc.ir.loops import Contraction, InPlace

_UNROLL = 4  # runs of columns that are read side by side


def in_place_words(body: Contraction) -> dict[str, object]:
    """What the template says of columns that are not packed; nothing where they are."""
    place = body.in_place
    if place is None:
        return {"in_place": ""}
    if body.strip is not None:
        return _vector_words(body, place)
    column, depth = body.columns.lanes[0].name, body.depth[0].name
    values = {column: axis_index("column"), depth: axis_index("cut_start")}
    words: dict[str, object] = {
        "step": place.step,
        "size": body.dtype.size,
        "columns_at": f"&{place.first.buffer}[{index_text(place.first.offset.substitute(values))}]",
    }
    if body.columns.order == "vectors":
        return words | {"in_place": "dots"}
    unroll = min(_UNROLL, body.register.lanes(body.dtype))
    place_of_row = (
        "k / LANES * MR * LANES + k % LANES" if body.rows.order == "vectors" else "k * MR"
    )
    return words | {
        "in_place": "runs", "unroll": unroll, "row_at": place_of_row,
        "many": _run(body, unroll), "single": _run(body, 1),
    }  # fmt: skip


def _vector_words(body: Contraction, place: InPlace) -> dict[str, object]:
    """What the template says of whole vectors of columns that are read beside a strip."""
    offset = place.first.offset.substitute(
        {body.depth[body.split].name: axis_index("cut_start")}
        | {axis.name: constant(0) for axis in body.depth[body.split + 1 :]}
    )
    first = f"&{place.first.buffer}[{index_text(offset)}]"
    return {
        "in_place": "vectors", "step": place.step, "across": place.across, "columns_at": first,
        "column_axes": decode_lines("first_panel * NR", body.columns.lanes, first),
    }  # fmt: skip


def _run(body: Contraction, unroll: int) -> list[str]:
    """tile[row][at] += sum of a few products, for every row."""
    vectors = body.rows.order == "vectors"
    lines = [f"const vector b{n} = *(const vector *)(from + {n} * STEP);" for n in range(unroll)]
    lines += [
        f"gc_fetch(from, {unroll + n} * STEP * {body.dtype.size}, sizeof b{n});"
        for n in range(unroll)
    ]
    for row in range(body.register.rows):
        terms = "".join(
            f" c += scalars[{f'{row} * LANES + {n}' if vectors else f'{n} * MR + {row}'}] * b{n};"
            for n in range(unroll)
        )
        place = f"*(vector *)(tile + {row} * TILE_WIDTH + at)"
        lines.append(f"{{ vector c = {place};{terms} {place} = c; }}")
    return lines
