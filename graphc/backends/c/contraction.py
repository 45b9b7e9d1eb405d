"""A Contraction as C text: packing and epilogue loops around the register-blocked kernel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.c.mapping import TYPES
from graphc.backends.c.printer import condition_text, scalar_text, statement_lines
from graphc.backends.templating import render
from graphc.ir.loops import BlockSizes, Contraction, Pack, Routine
from graphc.ir.types import Axis, element_count

PAGE = 2 << 20  # threads that write to one 2 MB page slow each other down many times over


def contraction_source(
    routine: Routine, body: Contraction, block: BlockSizes, parameters: str
) -> tuple[str, int, int]:
    """C text, bytes of workspace shared by all threads, bytes of workspace of each thread."""
    size, nr = body.dtype.size, block.columns(body.dtype)
    rows, columns = _count(body.rows.lanes), _count(body.columns.lanes)
    depth, batch = _count(body.depth), _count(body.batch)
    inner = _count(body.depth[body.split + 1 :])
    block_depth = body.piece * inner
    shared = _round(batch * -(-rows // block.rows) * block.rows * depth * size)
    private = _round((body.column_panels * nr) * (block_depth + body.row_block) * size)
    text = render(
        "c/contraction.c.jinja",
        title=routine.title, name=routine.name, parameters=parameters, type=TYPES[body.dtype],
        vector_bytes=block.vector_bytes, alignment=size,
        rows=rows, columns=columns, depth=depth, batch=batch, row_block=body.row_block,
        panels=body.column_panels, mr=block.rows, nr=nr, block_depth=block_depth,
        micro=_micro_kernel(block, block.vector_bytes // size),
        shared_bytes=shared, private_bytes=private,
        **_parts(body, inner),
    )  # fmt: skip
    return text, shared, private


@dataclass(frozen=True)
class _MicroKernel:
    """Lines of the register-blocked kernel; every accumulator has a name of its own."""

    zero: list[str]
    load: str
    multiply: list[str]
    add: list[str]
    store: list[str]


def _micro_kernel(block: BlockSizes, lanes: int) -> _MicroKernel:
    rows, vectors = range(block.rows), range(block.vectors)
    loads = ", ".join(f"b{v} = *(const vector *)(b + {v * lanes})" for v in vectors)

    def each(text: str, separator: str = "; ") -> list[str]:
        filled = (
            [
                text.format(r=r, v=v, place=f"(tile + {r} * TILE_WIDTH + {v * lanes})")
                for v in vectors
            ]
            for r in rows
        )
        return [separator.join(parts) + ";" for parts in filled]

    return _MicroKernel(
        zero=[f"vector {line}" for line in each("c{r}_{v} = {{0}}", ", ")],
        load=f"const vector {loads};",
        multiply=each("c{r}_{v} += a[{r}] * b{v}"),
        add=each("c{r}_{v} += *(vector *){place}"),
        store=each("*(vector *){place} = c{r}_{v}"),
    )


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _parts(body: Contraction, inner: int) -> dict[str, list[str]]:
    """The generated loops that the template sets into its frame."""
    whole = [f"for (long {a.name} = 0; {a.name} < {a.extent}; {a.name}++)" for a in body.depth]
    cut = body.depth[body.split]
    blocked = [f"for (long {cut.name} = piece; {cut.name} < stop; {cut.name}++)"]
    blocked += whole[body.split + 1 :]
    pack_rows = _pack(body.rows, whole, "MR", "ROWS", "DEPTH")
    pack_columns = _pack(body.columns, blocked, "NR", "COLUMNS", "block")
    epilogue = _epilogue(body)
    used = "\n".join([*pack_columns, *epilogue])
    piece = [
        f"for (long piece = 0; piece < {cut.extent}; piece += {body.piece}) {{",
        f"const long stop = gc_min(piece + {body.piece}, {cut.extent});",
        f"const long block = (stop - piece) * {inner};",
    ]
    return {
        "batch_of_panel": decode_lines("panel / ROW_PANELS", body.batch, "\n".join(pack_rows)),
        "batch_of_task": decode_lines("batch_number", body.batch, used),
        "pack_rows": pack_rows,
        "pack_columns": pack_columns,
        "depth_open": [*(f"{head} {{" for head in whole[: body.split]), *piece],
        "depth_close": ["}"] * (body.split + 1),
        "epilogue": epilogue,
    }


def decode_lines(flat: str, axes: Sequence[Axis], used: str) -> list[str]:
    """Declarations of the axes of a flat number, those that the text uses."""
    lines, below = [], _count(axes)
    for number, axis in enumerate(axes):
        below //= axis.extent
        whole = f"({flat})" if "/" in flat or "+" in flat else flat
        value = f"{whole} / {below}" if below > 1 else flat
        value = f"{value} % {axis.extent}" if number else value
        if re.search(rf"\b{axis.name}\b", used):
            lines.append(f"const long {axis.name} = {value};")
    return lines


def _nested(heads: Sequence[str], body: Sequence[str]) -> list[str]:
    """Loop heads around a body, each level indented."""
    lines = [f"{'  ' * depth}{head} {{" for depth, head in enumerate(heads)]
    lines += ["  " * len(heads) + line for line in body]
    return lines + ["  " * depth + "}" for depth in reversed(range(len(heads)))]


def _pack(pack: Pack, heads: Sequence[str], width: str, count: str, depth: str) -> list[str]:
    """target[depth][width]: ``width`` lanes from number ``first`` on, zeros past the end."""
    value = scalar_text(pack.value)
    if pack.conditions:
        test = " && ".join(condition_text(c) for c in pack.conditions)
        value = f"({test}) ? {value} : 0"
    if pack.along == "lanes":
        return _pack_lanes(pack, heads, width, count, depth, value)
    inner = _nested(heads, [f"*to = {value};", f"to += {width};"])
    return [
        f"for (long lane = 0; lane < {width}; lane++) {{",
        f"  {_pointer(pack)} to = target + lane;",
        "  const long flat = first + lane;",
        f"  if (flat >= {count}) {{",
        f"    for (long at = 0; at < {depth}; at++) to[at * {width}] = 0;",
        "    continue;",
        "  }",
        *(f"  {line}" for line in decode_lines("flat", pack.lanes, value)),
        *(f"  {line}" for line in inner),
        "}",
    ]


def _pointer(pack: Pack) -> str:
    return f"{TYPES[pack.value.dtype]} *restrict"


def _pack_lanes(
    pack: Pack, heads: Sequence[str], width: str, count: str, depth: str, value: str
) -> list[str]:
    """Runs of neighbouring lanes, the last lane axis innermost."""
    last = pack.lanes[-1]
    outer = decode_lines("flat / " + str(last.extent), pack.lanes[:-1], value)
    copy = f"{{ const long {last.name} = start + at; to[at] = {value}; }}"
    inner = _nested(
        heads,
        [
            f"if (run == {width}) for (long at = 0; at < {width}; at++) {copy}",
            f"else for (long at = 0; at < run; at++) {copy}",
            f"to += {width};",
        ],
    )
    return [
        f"for (long lane = 0; lane < {width};) {{",
        f"  {_pointer(pack)} to = target + lane;",
        "  const long flat = first + lane;",
        f"  if (flat >= {count}) {{",
        f"    for (long at = 0; at < {depth}; at++, to += {width})",
        f"      for (long slot = 0; slot < {width} - lane; slot++) to[slot] = 0;",
        "    break;",
        "  }",
        *(f"  {line}" for line in outer),
        f"  const long start = flat % {last.extent};",
        f"  const long run = gc_min({width} - lane, {last.extent} - start);",
        *(f"  {line}" for line in inner),
        "  lane += run;",
        "}",
    ]


def _epilogue(body: Contraction) -> list[str]:
    """Runs of neighbouring columns of one row of the tile."""
    statements = statement_lines(body.epilogue, depth=0)
    used = "\n".join(statements)
    last = body.epilogue_columns[-1]
    outer = decode_lines(f"column / {last.extent}", body.epilogue_columns[:-1], used)
    type_name = TYPES[body.dtype]
    return [
        *decode_lines("(first_row + row)", body.epilogue_rows, used),
        "for (long column = left; column < stop_column;) {",
        *(f"  {line}" for line in outer),
        f"  const long start = column % {last.extent};",
        f"  const long run = gc_min({last.extent} - start, stop_column - column);",
        "  for (long at = 0; at < run; at++) {",
        f"    const long {last.name} = start + at;",
        f"    const {type_name} sum = from[column - left + at];",
        *(f"    {line}" for line in statements),
        "  }",
        "  column += run;",
        "}",
    ]
