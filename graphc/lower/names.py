"""Identifiers of generated code: derived from names for people, never copied as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Words that C, C++ and CUDA reserve, and names that generated code uses itself.
_WORDS = """
auto break case char const continue default do double else enum extern float for goto if
inline int long register restrict return short signed sizeof static struct switch typedef union
unsigned void volatile while bool true false class template this new delete operator private
public protected virtual namespace using try catch throw and or not xor main NULL
sum column columns row rows lane flat run to from tile tiles task panel panels depth done mine
piece stop block first target vector at left workspace threads seconds arrays
"""
RESERVED = frozenset(_WORDS.split())


def identifier(text: str) -> str:
    """Letters, digits and single underscores of a text, at most 40, not starting with a digit."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40].strip("_").lower()
    return plain if plain and not plain[0].isdigit() else f"v{plain}"


class Namer:
    """Hands out identifiers that differ from each other and from reserved words."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken) | RESERVED

    def name(self, text: str) -> str:
        """A fresh identifier that resembles the text."""
        base = identifier(text)
        if base not in self.taken:
            self.taken.add(base)
            return base
        number = 2
        while f"{base}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{base}_{number}")
        return f"{base}_{number}"


def safe_axis(name: str) -> str:
    """An axis name as an identifier: unchanged if it is a plain word, else made one."""
    plain = re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) is not None
    if plain and name not in RESERVED:
        return name
    return f"{identifier(name)}_axis"
