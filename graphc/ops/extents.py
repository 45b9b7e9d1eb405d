"""The shape rule: extents of axes follow from the reads staying inside their (padded) operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.errors import UserError
from graphc.ir.equation import Read
from graphc.ir.index import Index
from graphc.ir.types import Axis, Shape

Paddings = Sequence[tuple[tuple[int, int], ...]]
Constraint = tuple[Index, int, int, str]  # index in low .. high inclusive; text for messages


def infer_axes(
    out: tuple[str, ...], over: tuple[str, ...], given: Mapping[str, int],
    shapes: Sequence[Shape], reads: Sequence[Read], paddings: Paddings,
) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:  # fmt: skip
    """Axes with extents of the output and the reduction, or a UserError naming the conflict."""
    names = (*out, *over)
    if len(set(names)) != len(names):
        raise UserError(f"an axis is used twice in {names}")
    constraints = list(_constraints(shapes, reads, paddings))
    known = dict(given)
    _exact_extents(constraints, known)
    _window_extents(constraints, known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"the extent of axis '{unknown[0]}' does not follow from the reads\n"
            f"give it: gx.axis('{unknown[0]}', extent)"
        )
    _check_inside(constraints, {name: known[name] for name in names})
    return tuple(Axis(n, known[n]) for n in out), tuple(Axis(n, known[n]) for n in over)


def _constraints(
    shapes: Sequence[Shape], reads: Sequence[Read], paddings: Paddings
) -> list[Constraint]:
    found = []
    for read, padding in zip(reads, paddings, strict=True):
        letter = "abcdefgh"[read.operand % 8]
        for d, (index, (before, after)) in enumerate(zip(read.index, padding, strict=True)):
            extent = shapes[read.operand][d]
            high = extent - 1 + after
            border = f" + {before} + {after}" if before or after else ""
            text = f"dimension {d} of {letter} ({extent}{border})"
            found.append((index, -before, high, text))
    return found


def _exact_extents(constraints: Sequence[Constraint], known: dict[str, int]) -> None:
    """An axis that alone runs through a dimension has that dimension's extent."""
    origin: dict[str, str] = {}
    for index, low, high, text in constraints:
        atom = index.terms[0][0] if len(index.terms) == 1 else None
        if not isinstance(atom, str) or index.terms[0][1] != 1 or index.const != low:
            continue
        extent = high - low + 1
        if known.setdefault(atom, extent) != extent and atom in origin:
            raise UserError(
                f"axis '{atom}' has two extents\n"
                f"it is {known[atom]} in {origin[atom]} but {extent} in {text}; "
                "the two must be equal"
            )
        origin.setdefault(atom, text)


def _window_extents(constraints: Sequence[Constraint], known: dict[str, int]) -> None:
    """Solve dimensions that have one unknown axis, until nothing changes."""
    while True:
        tightest: dict[str, int] = {}
        for index, _, high, text in constraints:
            unknown = [n for n in index.names if n not in known]
            if len(unknown) != 1 or index.coefficient(unknown[0]) <= 0:
                continue
            name = unknown[0]
            rest = index - Index(((name, index.coefficient(name)),))
            extent = (high - rest.bounds(known)[1]) // index.coefficient(name) + 1
            if extent <= 0:
                raise UserError(
                    f"the window '{index}' is larger than its array\n"
                    f"nothing is left of {text}; use a smaller window or a border"
                )
            tightest[name] = min(extent, tightest.get(name, extent))
        if not tightest:
            return
        known.update(tightest)


def _check_inside(constraints: Sequence[Constraint], known: Mapping[str, int]) -> None:
    for index, low, high, text in constraints:
        missing = [n for n in index.names if n not in known]
        if missing:
            raise UserError(
                f"axis '{missing[0]}' is read but neither defined nor summed over\n"
                f"add it to define[...] or reduce over it: gx.sum_over[{missing[0]}](...)"
            )
        least, greatest = index.bounds(known)
        if least < low or greatest > high:
            raise UserError(
                f"index '{index}' runs outside of its array\n"
                f"it takes {least}..{greatest}, {text} has {low}..{high}; give another extent "
                "or a border: a.padded([(before, after), ...])"
            )
