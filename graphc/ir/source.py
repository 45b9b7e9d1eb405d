"""Generated source text: what a backend prints and a tool chain compiles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One generated file, such as ``conv1_1.c`` or ``graphc.h``."""

    name: str
    text: str
