"""The three ways graphc says no: the user's mistake, our own bug, a failing tool chain."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent)


@dataclass(frozen=True)
class Location:
    """A place in the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


UNKNOWN = Location("<unknown>", 0)


def user_location() -> Location:
    """The innermost stack frame that is not part of graphc (or of generated code)."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and not file.startswith("<"):
            return Location(file, frame.f_lineno)
        if frame.f_back is None:
            return Location(file, frame.f_lineno)
        frame = frame.f_back
    return UNKNOWN


class UserError(Exception):
    """The input cannot be used; the message says what was expected, what came and what to do."""


class CompilerBug(Exception):
    """graphc broke its own invariant; never the user's fault."""


class ToolchainError(Exception):
    """A compiler or another outside program is missing or failed."""


def user_error(what: str, *details: str, at: Location | None = None) -> UserError:
    """A UserError whose first line opens with the user's file and line."""
    place = at if at is not None else user_location()
    return UserError("\n".join([f"{place}: {what}", *(f"  {line}" for line in details)]))
