"""The one door to jinja: templates print, Python decides."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from graphc.errors import CompilerBug


def template_folder() -> Path:
    """Where the templates are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "templates", package.parent / "templates"):
        if (folder / "README.md").is_file():
            return folder
    raise CompilerBug("the templates are not installed with graphc")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(template: str, /, **values: Any) -> str:
    """The text of a template; an undefined variable is an error."""
    return _environment().get_template(template).render(**values)
