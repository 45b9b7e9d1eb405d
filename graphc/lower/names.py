"""Identifiers of generated code: derived from names for people, never copied as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words that C, C++ and CUDA reserve, functions that generated code calls, and its own names.
_LANGUAGE = """
alignas alignof and asm auto bool break case catch char class concept const constexpr continue
decltype default delete do double else enum explicit export extern false float for friend goto half
if inline int int32_t int64_t linux long main mutable namespace new noexcept not nullptr operator or
private protected ptrdiff_t public register requires restrict return short signed size_t sizeof
static static_assert struct switch template this thread_local throw true try typedef typeid typename
typeof uint16_t uint32_t uint64_t uint8_t union unix unsigned using virtual void volatile wchar_t
while xor
"""
_FUNCTIONS = """
abs ceil cos erf exp expm1 fabs floor log log1p math_errhandling max min omp_get_thread_num pow sin
sqrt tanh
"""
_OWN = """
arrays at batch_number block channel column column_task columns depth done first first_panel
first_row flat from held lane left micro_kernel mine more packed_columns packed_rows panel panels
piece row row_task rows run seconds slot start stop stop_column sum target task threads tile tiles
to vector workspace base chunk cut_start cut_stop end end_block filters first_block my_columns
my_rows number packed partial transpose vector_start first_column multiply patch point products
results sums tap taps tile_total total totals next scalars begin whole place_at value_at
transform_back transform_columns transform_filter transform_patch transform_rows transformed
transformed_columns transformed_rows paired staged strip top lane_at run_at ahead columns ranges
line_end
"""
# What CUDA adds, and the names of its templates.
_DEVICE = """
across active batch_number before blockdim blockidx column_tile columns_depth columns_flat
columns_inside columns_line columns_place columns_tile copy done down element empty expf finished
first_columns first_rows full griddim group half high index inside load logf low lower max min
output outputs part part_column part_row partial_sums phase place position rank result row_tile
rows_depth rows_flat rows_inside rows_line rows_place rows_tile shared stage step steps sums team
thread threadidx tile_column tile_row valid warp warp_column warp_row width window worker workers
"""
RESERVED = frozenset(f"{_LANGUAGE} {_FUNCTIONS} {_OWN}".split())
RESERVED_ON_DEVICE = RESERVED | frozenset(_DEVICE.split())


def identifier(text: str) -> str:
    """Letters, digits and single underscores of a text, at most 40, not starting with a digit."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40].strip("_").lower()
    return plain if plain and not plain[0].isdigit() else f"v{plain}"


class Namer:
    """Hands out identifiers that differ from each other and from reserved words."""

    def __init__(self, reserved: frozenset[str] = RESERVED) -> None:
        self.reserved = reserved
        self.taken = set(reserved)
        self.merged: dict[tuple[str, str], str] = {}

    def name(self, text: str, suffixes: Sequence[str] = ("",)) -> str:
        """A fresh identifier that resembles the text; so is it with each of the suffixes."""
        return self._fresh(identifier(text), suffixes)

    def axis(self, name: str) -> str:
        """A fresh identifier for an axis: its own name if that is a plain word."""
        plain = re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) is not None
        return self._fresh(
            name if plain and name not in self.reserved else f"{identifier(name)}_axis"
        )

    def merged_axis(self, outer: str, inner: str) -> str:
        """Both names in a row; the same two axes always merge into the same name."""
        if (outer, inner) not in self.merged:
            self.merged[outer, inner] = self._fresh(f"{outer}{inner}")
        return self.merged[outer, inner]

    def _fresh(self, base: str, suffixes: Sequence[str] = ("",)) -> str:
        name, number = base, 2
        while any(f"{name}{suffix}" in self.taken for suffix in suffixes):
            name, number = f"{base}_{number}", number + 1
        self.taken.update(f"{name}{suffix}" for suffix in suffixes)
        return name
