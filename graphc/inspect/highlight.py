"""Colours for C text, on a terminal only: a file or a pipe gets the text as it is."""

from __future__ import annotations

import os
import sys

from pygments import highlight
from pygments.formatters.terminal import TerminalFormatter
from pygments.lexers.c_cpp import CLexer


def paint_c(text: str) -> str:
    """The text with colours where standard output is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return str(highlight(text, CLexer(stripnl=False), TerminalFormatter()))
