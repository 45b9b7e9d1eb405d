"""The three ways graphc says no: the user's mistake, our own bug, a failing tool chain."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = f"{Path(__file__).resolve().parent}{os.sep}"
_COMMAND = str(Path(_PACKAGE, "cli.py"))
_LIBRARY = (str(Path(_PACKAGE, "dsl")), str(Path(_PACKAGE, "train")))


@dataclass(frozen=True)
class Location:
    """A place in the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


UNKNOWN = Location("<unknown>", 0)


def user_location() -> Location:
    """The innermost stack frame that is not part of graphc (or of generated code).

    A network that the command line takes from our own library has no user's file: there it is the
    innermost line of the library.
    """
    frame, library = sys._getframe(1), UNKNOWN
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _COMMAND:
            return library
        if library is UNKNOWN and file.startswith(_LIBRARY):
            library = Location(file, frame.f_lineno)
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
    """A UserError whose first line opens with the user's file and line, if there is one."""
    place = at if at is not None else user_location()
    ours = place is UNKNOWN or place.file.startswith(_LIBRARY)
    first = what if ours else f"{place}: {what}"
    return UserError("\n".join([first, *(f"  {line}" for line in details)]))
