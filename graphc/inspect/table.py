"""Columns of text and numbers that people read without counting digits."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns two spaces apart; a header that ends in a colon aligns to the right."""
    titles = [header.removesuffix(":") for header in headers]
    lines = [titles, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    right = [header.endswith(":") for header in headers]
    return [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def amount(count: int) -> str:
    """A count with three or four digits and a decimal prefix: 15.47 G."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def binary_bytes(count: int) -> str:
    """Bytes with a binary prefix: 98.2 MiB."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} B"
