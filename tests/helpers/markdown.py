"""Runs the python blocks of a Markdown page and compares what they print with its text blocks."""

import contextlib
import io
import re
from pathlib import Path

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def executed(path: Path) -> str:
    """The page with every text block replaced by what the python block before it printed."""
    page = path.read_text()
    space: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    pieces, end = [], 0
    for block in BLOCK.finditer(page):
        pieces.append(page[end : block.start()])
        end = block.end()
        kind, body = block.groups()
        if kind == "python":
            line = page[: block.start(2)].count("\n")
            code = compile("\n" * line + body, path.name, "exec")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(code, space)
            printed = out.getvalue()
            pieces.append(block.group())
        else:
            pieces.append(f"```text\n{printed.rstrip()}\n```")
    return "".join([*pieces, page[end:]])
