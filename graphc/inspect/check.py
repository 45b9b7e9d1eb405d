"""One thing that a machine has or lacks, for `graphc doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Check:
    """One thing: what was found, and what to do if it is missing; ``needed`` to train at all."""

    name: str
    found: str
    fix: str = ""
    needed: bool = False


def version_of(package: str) -> str:
    """The installed version of a distribution, empty where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
