"""What a backend prints: one routine a kernel, in the form that its machine runs."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.boxes import BoxProduct
from graphc.ir.grid import GridNest, GridParts, GridProduct
from graphc.ir.loops import Contraction, Parameter, Statement, TileProduct

Body = (
    tuple[Statement, ...]
    | Contraction
    | TileProduct
    | GridNest
    | GridParts
    | GridProduct
    | BoxProduct
)


@dataclass(frozen=True)
class Routine:
    """One generated function."""

    name: str
    title: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    body: Body
    flops: int
    bytes: int
