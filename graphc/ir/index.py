"""Integer index expressions: affine in axis names, with exact floor and remainder atoms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Floor:
    """floor(inner / divisor)."""

    inner: Index
    divisor: int


@dataclass(frozen=True)
class Mod:
    """inner modulo divisor, in 0 .. divisor - 1."""

    inner: Index
    divisor: int


Atom = str | Floor | Mod


def _atom_key(atom: Atom) -> str:
    return atom if isinstance(atom, str) else f"~{atom!r}"


@dataclass(frozen=True)
class Index:
    """sum of coefficient * atom + constant; terms are sorted and have no zero coefficient."""

    terms: tuple[tuple[Atom, int], ...] = ()
    const: int = 0

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.const))

    def __hash__(self) -> int:
        """Cached: indexes are dictionary keys everywhere."""
        return self._hash

    def __add__(self, other: Index | int) -> Index:
        """Sum."""
        if isinstance(other, int):
            return Index(self.terms, self.const + other)
        return collect([*self.terms, *other.terms], self.const + other.const)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Index:
        """Product with an integer constant."""
        if factor == 0:
            return Index()
        return Index(tuple((a, c * factor) for a, c in self.terms), self.const * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Index:
        """Negation."""
        return self * -1

    def __sub__(self, other: Index | int) -> Index:
        """Difference."""
        return self + (-other)

    def __rsub__(self, other: int) -> Index:
        """Difference from a constant."""
        return -self + other

    def __floordiv__(self, divisor: int) -> Index:
        """Floor division by a positive constant; multiples of the divisor leave the floor."""
        if divisor == 1:
            return self
        whole = Index(
            tuple((a, c // divisor) for a, c in self.terms if c % divisor == 0),
            self.const // divisor,
        )
        rest = Index(tuple(t for t in self.terms if t[1] % divisor), self.const % divisor)
        if not rest.terms:
            return whole
        return whole + Index(((Floor(rest, divisor), 1),))

    def __mod__(self, divisor: int) -> Index:
        """Non-negative remainder by a positive constant."""
        if divisor == 1:
            return Index()
        rest = Index(
            tuple((a, c % divisor) for a, c in self.terms if c % divisor), self.const % divisor
        )
        if not rest.terms:
            return rest
        return Index(((Mod(rest, divisor), 1),))

    @cached_property
    def names(self) -> frozenset[str]:
        """Every axis name that occurs, inside floors and remainders too."""
        found: set[str] = set()
        for atom, _ in self.terms:
            found |= {atom} if isinstance(atom, str) else atom.inner.names
        return frozenset(found)

    @property
    def is_affine(self) -> bool:
        """Whether no floor or remainder occurs."""
        return all(isinstance(atom, str) for atom, _ in self.terms)

    @property
    def single_name(self) -> str | None:
        """The axis name if the index is exactly that axis."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            atom = self.terms[0][0]
            return atom if isinstance(atom, str) else None
        return None

    def coefficient(self, atom: Atom) -> int:
        """The coefficient of an atom such as a bare axis name; 0 if it does not occur so."""
        return next((c for a, c in self.terms if a == atom), 0)

    def substitute(self, values: Mapping[str, Index]) -> Index:
        """Replace axis names by indexes."""
        if self.names.isdisjoint(values):
            return self
        result = Index((), self.const)
        for atom, coefficient in self.terms:
            result = result + _substitute_atom(atom, values) * coefficient
        return result

    def bounds(self, extents: Mapping[str, int]) -> tuple[int, int]:
        """Least and greatest value, both inclusive, over 0 <= axis < extent (a safe interval)."""
        low = high = self.const
        for atom, coefficient in self.terms:
            a, b = _atom_bounds(atom, extents)
            low += min(a * coefficient, b * coefficient)
            high += max(a * coefficient, b * coefficient)
        return low, high

    def simplify(self, extents: Mapping[str, int]) -> Index:
        """Drop axes of extent 1, floors and remainders that the extents decide."""
        result = Index((), self.const)
        for atom, coefficient in self.terms:
            result = result + _simplify_atom(atom, extents) * coefficient
        return result

    def __str__(self) -> str:
        """As a person writes it: ``2*i + r - 1``."""
        text = ""
        for atom, coefficient in self.terms:
            name = _atom_text(atom)
            size = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
            sign = ("-" if coefficient < 0 else "") if not text else (" - ", " + ")[coefficient > 0]
            text += f"{sign}{size}{name}"
        if not text:
            return str(self.const)
        return text + (f" {'+' if self.const > 0 else '-'} {abs(self.const)}" if self.const else "")


def collect(terms: Iterable[tuple[Atom, int]], const: int) -> Index:
    """An Index from terms in any order, equal atoms added up."""
    sums: dict[Atom, int] = {}
    for atom, coefficient in terms:
        sums[atom] = sums.get(atom, 0) + coefficient
    kept = ((a, c) for a, c in sums.items() if c)
    return Index(tuple(sorted(kept, key=lambda t: _atom_key(t[0]))), const)


def axis_index(name: str) -> Index:
    """The index that is one axis."""
    return Index(((name, 1),))


def constant(value: int) -> Index:
    """A constant index."""
    return Index((), value)


def _substitute_atom(atom: Atom, values: Mapping[str, Index]) -> Index:
    if isinstance(atom, str):
        return values.get(atom, axis_index(atom))
    inner = atom.inner.substitute(values)
    return inner // atom.divisor if isinstance(atom, Floor) else inner % atom.divisor


def _atom_bounds(atom: Atom, extents: Mapping[str, int]) -> tuple[int, int]:
    if isinstance(atom, str):
        return 0, extents[atom] - 1
    low, high = atom.inner.bounds(extents)
    if isinstance(atom, Floor):
        return low // atom.divisor, high // atom.divisor
    if low // atom.divisor == high // atom.divisor:
        return low % atom.divisor, high % atom.divisor
    return 0, atom.divisor - 1


def _simplify_atom(atom: Atom, extents: Mapping[str, int]) -> Index:
    if isinstance(atom, str):
        return constant(0) if extents[atom] == 1 else axis_index(atom)
    inner = atom.inner.simplify(extents)
    low, high = inner.bounds(extents)
    decided = low // atom.divisor == high // atom.divisor
    if isinstance(atom, Floor):
        return constant(low // atom.divisor) if decided else inner // atom.divisor
    return inner - atom.divisor * (low // atom.divisor) if decided else inner % atom.divisor


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom
    return f"({atom.inner}){'//' if isinstance(atom, Floor) else '%'}{atom.divisor}"
