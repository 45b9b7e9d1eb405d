"""Packing of one factor of a contraction into panels: target[depth][width], or kept vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from graphc.backends.c.mapping import TYPES, WIDEN_VECTOR
from graphc.backends.c.printer import condition_text, index_text, scalar_text
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Pack
from graphc.ir.scalar import Condition, Scalar, guarded_load, plain_load
from graphc.ir.types import Axis, DType, element_count

_FAR = 4096  # bytes: memory pages, at whose end the hardware stops to read ahead


def decode_lines(flat: str, axes: Sequence[Axis], used: str) -> list[str]:
    """Declarations of the axes of a flat number, those that the text uses."""
    lines, below = [], element_count(tuple(a.extent for a in axes))
    for number, axis in enumerate(axes):
        below //= axis.extent
        whole = f"({flat})" if " " in flat else flat
        value = f"{whole} / {below}" if below > 1 else flat
        value = f"{value} % {axis.extent}" if number else value
        if re.search(rf"\b{axis.name}\b", used):
            lines.append(f"const long {axis.name} = {value};")
    return lines


def pack_lines(
    pack: Pack, heads: Sequence[str], width: str, count: str, depth: str, lanes: int, size: int
) -> list[str]:
    """Fill a panel of ``width`` (of ``size`` numbers) lanes from number ``first`` on.

    ``heads`` are the loops over the depth, ``depth`` its length; past ``count`` lanes are zeros.
    """
    value = scalar_text(pack.value)
    if pack.conditions:
        value = f"({_test(pack.conditions)}) ? {value} : 0"
    if pack.order == "lanes":
        return _lanes(pack, heads, width, count, depth, value, size, lanes)
    if pack.order == "transposed":
        return _transposed(pack, heads, width, count, lanes)
    if pack.order == "vectors":
        return _vectors(pack, heads, width, count, depth, value, lanes)
    clipped = _clipped(pack, heads, width)
    outer = [] if clipped else heads[:-1][:1]  # lanes of one part of the depth stay in the cache
    part, place = depth, ""
    if outer:
        name, begin, _ = _bounds_of(outer[0])
        part = str(element_count(tuple(int(_bounds_of(head)[2]) for head in heads[1:])))
        past = name if begin == "0" else f"({name} - {begin})"
        place = f" + {past} * {part} * {width}"
    inner = clipped or nested(heads[len(outer) :], [f"*to = {value};", f"to += {width};"])
    lines = [
        f"for (long lane = 0; lane < {width}; lane++) {{",
        f"  {_pointer(pack)} to = target + lane{place};",
        "  const long flat = first + lane;",
        f"  if (flat >= {count}) {{",
        f"    for (long at = 0; at < {part}; at++) to[at * {width}] = 0;",
        "    continue;",
        "  }",
        *(f"  {line}" for line in decode_lines("flat", pack.lanes, value)),
        *(f"  {line}" for line in inner),
        "}",
    ]
    return nested(outer, lines)


def _clipped(pack: Pack, heads: Sequence[str], width: str) -> list[str]:
    """One lane along the depth: where its conditions begin and cease to hold is known beforehand.

    Empty where that is not so, or where there are none.
    """
    guarded = guarded_load(pack.value, pack.conditions)
    if guarded is None or not guarded[0]:
        return []
    name, begin, end = _bounds_of(heads[-1])
    outside: list[Condition] = []
    lines = [f"long begin = {begin}, end = {end};"]
    for condition in guarded[0]:
        if name not in condition.index.names:
            outside.append(condition)
            continue
        step = condition.index.coefficient(name)
        if condition.divisor != 1 or _bends(condition.index, name) or step <= 0:
            return []
        rest = condition.index.substitute({name: constant(0)})
        for bound, edge, choose in (
            (condition.lower, "begin", "gc_max"), (condition.upper, "end", "gc_min")
        ):  # fmt: skip
            if bound is not None:
                place = index_text(bound + step - 1 - rest)
                place = f"gc_floor_div({place}, {step})" if step > 1 else place
                lines.append(f"{edge} = {choose}({edge}, {place});")
    if outside:
        lines.append(f"if (!({_test(outside)})) end = begin;")
    lines.append(f"long {name} = {begin};")
    for stop, value in (
        (f"gc_min(begin, {end})", "0"), ("end", scalar_text(guarded[1])), (end, "0")
    ):  # fmt: skip
        lines.append(f"for (; {name} < {stop}; {name}++, to += {width}) *to = {value};")
    return nested(heads[:-1], lines)


def vector_move(value: Scalar, axis: str, tests: Sequence[Condition] = ()) -> str | None:
    """``to[0 .. LANES - 1]`` from neighbours along an axis, or zeros; None if they are not.

    16-bit numbers are widened to floats where the value is, and moved as they are otherwise.
    Whole vectors, not a loop: gcc 12 turns a short loop of conditional loads into wrong code.
    """
    guarded = guarded_load(value, tests)
    load = plain_load(guarded[1]) if guarded is not None else None
    if guarded is None or load is None or load.offset.coefficient(axis) != 1:
        return None
    conditions, _ = guarded
    bent = _bends(load.offset, axis)
    if bent or any(axis in c.index.names for c in conditions):
        return None
    kind = "half_vector" if value.dtype.is_half else "vector"
    move = f"*({kind} *)to = {vector_text(load.dtype, value.dtype, f'&{scalar_text(load)}')};"
    if not conditions:
        return move
    return f"if ({_test(conditions)}) {move} else *({kind} *)to = ({kind}){{0}};"


def _bends(index: Index, axis: str) -> bool:
    return any(not isinstance(a, str) and axis in a.inner.names for a, _ in index.terms)


def _test(conditions: Sequence[Condition]) -> str:
    return " && ".join(condition_text(c) for c in conditions)


def _run_test(pack: Pack, axis: str, size: int) -> tuple[str, str] | None:
    """The test that a run of ``size`` lanes from ``start`` lies inside, and its element then.

    Bounds that hold at both ends of the run hold between them.
    """
    guarded = guarded_load(pack.value, pack.conditions)
    if guarded is None or not guarded[0]:
        return None
    tests: list[Condition] = []
    for condition in guarded[0]:
        moving = axis in condition.index.names
        if moving and (condition.divisor != 1 or _bends(condition.index, axis)):
            return None
        first = condition.index.substitute({axis: axis_index("start")})
        step = condition.index.coefficient(axis) * (size - 1)
        ends = dict.fromkeys((first, first + step) if moving else (first,))
        tests += [replace(condition, index=index) for index in ends]
    return _test(tests), scalar_text(guarded[1])


def vector_text(stored: DType, dtype: DType, place: str) -> str:
    """A vector of neighbours from a place in an array of type ``stored``, as type ``dtype``."""
    if dtype is not stored:
        return f"{WIDEN_VECTOR[stored]}({place})"
    kind = "half_vector" if dtype.is_half else "vector"
    return f"*(const {kind} *){place if place.startswith('&') else f'({place})'}"


def _pointer(pack: Pack) -> str:
    return f"{TYPES[pack.value.dtype]} *restrict"


def nested(heads: Sequence[str], body: Sequence[str]) -> list[str]:
    """Loop heads around a body, each level indented."""
    lines = [f"{'  ' * depth}{head} {{" for depth, head in enumerate(heads)]
    lines += ["  " * len(heads) + line for line in body]
    return lines + ["  " * depth + "}" for depth in reversed(range(len(heads)))]


def _stepping(heads: Sequence[str], step: str) -> list[str]:
    """The same loops, the innermost one a vector at a time."""
    *outer, last = heads
    return [*outer, re.sub(r"(\w+)\+\+\)$", rf"\1 += {step})", last)]


def _lanes(
    pack: Pack, heads: Sequence[str], width: str, count: str, depth: str, value: str, size: int,
    lanes: int,
) -> list[str]:  # fmt: skip
    """Runs of neighbouring lanes, the last lane axis innermost."""
    last = pack.lanes[-1]
    outer = decode_lines("flat / " + str(last.extent), pack.lanes[:-1], value)
    moves, run = _run_of_lanes(pack, value, width, size, lanes)
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
        *(f"  {line}" for line in run),
        *(f"  {line}" for line in nested(heads, [*moves, f"to += {width};"])),
        "  lane += run;",
        "}",
    ]


def _run_of_lanes(
    pack: Pack, value: str, width: str, size: int, lanes: int
) -> tuple[list[str], list[str]]:
    """Statements that copy one run, and the declarations of where it starts and how long it is."""
    last = pack.lanes[-1]
    if size % last.extent:
        place = f"const long {last.name} = start + at;"
        copy = f"{{ {place} to[at] = {value}; }}"
        whole = f"for (long at = 0; at < {width}; at++)"
        inside = _run_test(pack, last.name, size)
        moves = [
            *(
                [f"if (run == {width} && {inside[0]}) {whole} {{ {place} to[at] = {inside[1]}; }}"]
                if inside
                else []
            ),
            f"{'else ' if inside else ''}if (run == {width}) {whole} {copy}",
            f"else for (long at = 0; at < run; at++) {copy}",
        ]
        start = f"const long start = flat % {last.extent};"
        return moves, [start, f"const long run = gc_min({width} - lane, {last.extent} - start);"]
    run = [f"const long run = {last.extent};"]
    move = vector_move(pack.value, last.name, pack.conditions) if last.extent == lanes else None
    if move:
        return [f"{{ const long {last.name} = 0; {move} }}"], run
    copy = f"{{ const long {last.name} = at; to[at] = {value}; }}"
    return [f"for (long at = 0; at < {last.extent}; at++) {copy}"], run


def _vectors(
    pack: Pack, heads: Sequence[str], width: str, count: str, depth: str, value: str, lanes: int
) -> list[str]:
    """target[depth / LANES][width][LANES]: vectors of neighbouring depth as they are.

    Zeros complete the last one where the last axis is no whole number of vectors.
    """
    *outer, last = heads
    name, _, end = _bounds_of(last)
    rest = int(end) % lanes if end.isdigit() else 0
    last = last.replace(f"< {end};", f"< {int(end) - rest};") if rest else last
    step = f"to += {width} * LANES;"
    move = vector_move(pack.value, name, pack.conditions)
    if move:
        vectors = nested(_stepping([last], "LANES"), [*_next_lane(pack), move, step])
    else:
        element = [
            "for (long at = 0; at < LANES; at++) {",
            f"  const long {name} = vector_start + at;",
            f"  to[at] = {value};",
            "}",
            step,
        ]
        moved = re.sub(rf"\b{name}\b", "vector_start", last)
        vectors = nested(_stepping([moved], "LANES"), element)
    if rest:
        place = f"const long {name} = {int(end) - rest} + at;"
        vectors += [
            f"for (long at = 0; at < {rest}; at++) {{ {place} to[at] = {value}; }}",
            f"for (long at = {rest}; at < LANES; at++) to[at] = 0;",
            step,
        ]
    inner = nested(outer, vectors)
    return [
        f"for (long lane = 0; lane < {width}; lane++) {{",
        f"  {_pointer(pack)} to = target + lane * LANES;",
        "  const long flat = first + lane;",
        f"  if (flat >= {count}) {{",
        f"    for (long at = 0; at < {depth}; at += LANES, to += {width} * LANES)",
        "      for (long slot = 0; slot < LANES; slot++) to[slot] = 0;",
        "    continue;",
        "  }",
        *(f"  {line}" for line in decode_lines("flat", pack.lanes, value)),
        *(f"  {line}" for line in inner),
        "}",
    ]


def _next_lane(pack: Pack) -> list[str]:
    """Fetch the same place of the next lane, where that is far enough for the memory not to."""
    load = plain_load(pack.value)
    if load is None or pack.conditions or not pack.lanes:
        return []
    step = load.offset.coefficient(pack.lanes[-1].name)
    if step * load.dtype.size < _FAR:
        return []
    return [f"__builtin_prefetch(&{scalar_text(replace(load, offset=load.offset + step))});"]


def _bounds_of(head: str) -> tuple[str, str, str]:
    """The variable of a loop, its first value, and the one that it does not reach."""
    found = re.fullmatch(r"for \(long (\w+) = (\w+); \w+ < (\w+); .*\)", head)
    assert found is not None, head
    return found[1], found[2], found[3]


def _transposed(pack: Pack, heads: Sequence[str], width: str, count: str, lanes: int) -> list[str]:
    """Vectors along the depth, turned a square at a time; lanes past the end repeat the last."""
    load = plain_load(pack.value)
    assert load is not None
    names = {a.name for a in pack.lanes}
    terms = load.offset.terms
    base = Index(tuple(t for t in terms if t[0] in names))
    rest = Index(tuple(t for t in terms if t[0] not in names), load.offset.const)
    inner = nested(
        _stepping(heads, "LANES"),
        [
            f"transpose({load.buffer} + {index_text(rest)}, base, to);",
            f"to += LANES * {width};",
        ],
    )
    return [
        f"for (long lane = 0; lane < {width}; lane += LANES) {{",
        "  long base[LANES];",
        "  for (long at = 0; at < LANES; at++) {",
        f"    const long flat = gc_min(first + lane + at, {count} - 1);",
        *(f"    {line}" for line in decode_lines("flat", pack.lanes, index_text(base))),
        f"    base[at] = {index_text(base)};",
        "  }",
        f"  {_pointer(pack)} to = target + {'2 * ' if pack.value.dtype.is_half else ''}lane;",
        *(f"  {line}" for line in inner),
        "}",
    ]


def transpose_lines(pack: Pack, lanes: int, width: str) -> list[str]:
    """A square of vectors turned by log2(lanes) rounds of pairwise shuffles.

    Pairs of 16-bit numbers are turned as one number of 32 bits each. A vector then holds those of
    two lanes, in its halves, which are turned side by side: half as many vectors, half as deep.
    """
    load = plain_load(pack.value)
    assert load is not None
    paired = pack.value.dtype.is_half
    count = lanes // 2 if paired else lanes
    if paired:
        rows = [f"gc_join(from + base[{i}], from + base[{i + count}])" for i in range(count)]
    else:
        rows = [
            vector_text(load.dtype, pack.value.dtype, f"from + base[{i}]") for i in range(count)
        ]
    lines = [f"const vector v0_{i} = {row};" for i, row in enumerate(rows)]
    step, level = 1, 0
    while step < count:
        for i in range(count):
            if i & step:
                continue
            j = i | step
            low = [k if not k & step else lanes + k - step for k in range(lanes)]
            high = [k + step if not k & step else lanes + k for k in range(lanes)]
            for target, picked in ((i, low), (j, high)):
                places = ", ".join(map(str, picked))
                lines.append(
                    f"const vector v{level + 1}_{target} = "
                    f"__builtin_shuffle(v{level}_{i}, v{level}_{j}, (mask){{{places}}});"
                )
        step, level = 2 * step, level + 1
    size = "2 * " if paired else ""
    return [
        *lines,
        *(f"*(vector *)(to + {i} * {size}{width}) = v{level}_{i};" for i in range(count)),
    ]
