"""Sources that differ in names alone: layers of one shape give one kernel, compiled once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.emulator_build import kernel_names
from graphc.ir.source import SourceFile

_COMMENT = re.compile(r"//.*")
_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
# A word behind a type is a name that the text itself gives; others mean the same everywhere.
_DECLARED = re.compile(
    r"(?:\b(?:int|float|double|bool|auto|gc_lanes<[^>]*>|gc_\w+)|\*const|__restrict__)\s+(\w+)"
)


@dataclass(frozen=True)
class Twins:
    """The sources to compile, and where the others are in them.

    ``source_of`` gives for each file the name of the file that is compiled for it, ``symbol_of``
    for each kernel its name there.
    """

    distinct: tuple[SourceFile, ...]
    source_of: dict[str, str]
    symbol_of: dict[str, str]


def find_twins(files: Sequence[SourceFile]) -> Twins:
    """Which texts are equal but for comments and the names that they declare."""
    first: dict[str, SourceFile] = {}
    source_of: dict[str, str] = {}
    symbol_of: dict[str, str] = {}
    for file in files:
        model = first.setdefault(_nameless(file), file)
        source_of[file.name] = model.name
        symbol_of |= zip(kernel_names(file), kernel_names(model), strict=True)
    return Twins(tuple(first.values()), source_of, symbol_of)


def _nameless(file: SourceFile) -> str:
    """The text with every declared name replaced by its number."""
    text = _COMMENT.sub("", file.text)
    declared = {*kernel_names(file), *_DECLARED.findall(text)}
    numbers: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        word = found[0]
        return numbers.setdefault(word, f"${len(numbers)}") if word in declared else word

    return _WORD.sub(numbered, text)
