"""The statement of a Python file that declared a value."""

from __future__ import annotations

import ast
import textwrap
from functools import lru_cache
from pathlib import Path

from graphc.errors import Location


def statement(place: Location) -> str:
    """The innermost whole statement at a line, of one line or more; empty without the file."""
    found = [s for s in _statements(place.file) if s[0] <= place.line <= s[1]]
    return max(found)[2] if found else ""


@lru_cache(maxsize=64)
def _statements(file: str) -> tuple[tuple[int, int, str], ...]:
    """First line, last line and text of every statement without a body."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
    except (OSError, SyntaxError, ValueError):
        return ()
    lines = text.splitlines()
    return tuple(
        (n.lineno, n.end_lineno or n.lineno, _cut(lines[n.lineno - 1 : n.end_lineno]))
        for n in nodes
        if isinstance(n, ast.stmt) and not hasattr(n, "body")
    )


def _cut(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip()
