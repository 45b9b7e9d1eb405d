"""Turn the scatter ``X[A(loops)] += ...`` into a gather: solve A(loops) = x for the loop axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.ir.equation import Guard
from graphc.ir.index import Floor, Index, Mod, axis_index
from graphc.ir.types import Axis


@dataclass
class Solution:
    """Loop axes as indexes of the gathered element, axes still summed over, and guards."""

    extents: dict[str, int]
    free: list[str]
    values: dict[str, Index] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)
    invented: set[str] = field(default_factory=set)  # axes that the equation did not have

    def assign(self, name: str, value: Index) -> None:
        """Loop axis ``name`` equals ``value``; a guard keeps it in range unless that is certain."""
        step = {name: value}
        self.values = {n: v.substitute(step) for n, v in self.values.items()}
        self.guards = [_substitute_guard(g, step) for g in self.guards]
        self.values[name] = value
        self.free.remove(name)
        self.require(Guard(value, 0, self.extents[name]))

    def require(self, guard: Guard) -> None:
        """Add a guard unless the extents imply it."""
        if not guard_holds(guard, self.extents):
            self.guards.append(guard)

    def fresh(self, extent: int) -> str:
        """A new summed axis."""
        name = next(n for n in _fresh_names() if n not in self.extents)
        self.extents[name] = extent
        self.free.append(name)
        self.invented.add(name)
        return name


def _fresh_names() -> list[str]:
    return [f"u{i}" if i else "u" for i in range(1000)]


def guard_holds(guard: Guard, extents: Mapping[str, int]) -> bool:
    """Whether the extents alone imply the guard."""
    low, high = guard.index.bounds(extents)
    if guard.lower is not None and low < guard.lower:
        return False
    if guard.upper is not None and high >= guard.upper:
        return False
    return (guard.index % guard.divisor).simplify(extents) == Index()


def _substitute_guard(guard: Guard, values: Mapping[str, Index]) -> Guard:
    return Guard(guard.index.substitute(values), guard.lower, guard.upper, guard.divisor)


def substitute_guards(guards: tuple[Guard, ...], values: Mapping[str, Index]) -> list[Guard]:
    """Guards with axes replaced."""
    return [_substitute_guard(g, values) for g in guards]


def solve(
    index: tuple[Index, ...], targets: tuple[Axis, ...], loops: tuple[Axis, ...],
    guards: tuple[Guard, ...],
) -> Solution:  # fmt: skip
    """Solve index = targets over 0 <= loop < extent, where the guards are known to hold.

    Dimensions that are one axis come first; of a dimension's axes the longest is eliminated, so
    that what stays summed is short. A coefficient s other than 1 leaves a divisibility guard;
    s*i + r with r < s has the one solution i = x // s, r = x % s.
    """
    solution = Solution({a.name: a.extent for a in (*loops, *targets)}, [a.name for a in loops])
    order = sorted(range(len(index)), key=lambda d: index[d].single_name is None)
    for d in order:
        _solve_dimension(index[d], axis_index(targets[d].name), solution, guards)
    return solution


def _solve_dimension(
    index: Index, target: Index, solution: Solution, guards: tuple[Guard, ...]
) -> None:
    left, target = _exact_quotient(index.substitute(solution.values), target, solution, guards)
    if left.single_name is None:
        left = left.simplify(solution.extents)
    while (atom := _solvable_atom(left, solution)) is not None:
        left, target = _open_atom(left, atom, target, solution)
    inside = Index(tuple(t for t in left.terms if not isinstance(t[0], str))).names
    free = [n for n in solution.free if left.coefficient(n) and n not in inside]
    if not free:
        solution.require(Guard(target - left, 0, 1))
        return
    if _split_digits(left, target, free, solution):
        return
    name = max(free, key=lambda n: (solution.extents[n], abs(left.coefficient(n)) == 1))
    coefficient = left.coefficient(name)
    rest = left - axis_index(name) * coefficient
    difference = (target - rest) * (1 if coefficient > 0 else -1)
    if abs(coefficient) == 1:
        solution.assign(name, difference)
        return
    solution.require(Guard(difference, divisor=abs(coefficient)))
    solution.assign(name, difference // abs(coefficient))


def _exact_quotient(
    left: Index, target: Index, solution: Solution, guards: tuple[Guard, ...]
) -> tuple[Index, Index]:
    """Where a guard says that q divides G, floor(G/q) + rest = x means G + q*rest = q*x."""
    for guard in guards:
        whole = guard.index.substitute(solution.values)
        rest = left - whole // guard.divisor
        if rest.is_affine and not left.is_affine:
            return whole + rest * guard.divisor, target * guard.divisor
    return left, target


def _solvable_atom(left: Index, solution: Solution) -> Floor | Mod | None:
    """A floor or remainder that stands alone and still holds an unsolved axis."""
    if len(left.terms) != 1 or abs(left.terms[0][1]) != 1:
        return None
    atom = left.terms[0][0]
    if isinstance(atom, str) or atom.inner.names.isdisjoint(solution.free):
        return None
    return atom


def _open_atom(
    left: Index, atom: Floor | Mod, target: Index, solution: Solution
) -> tuple[Index, Index]:
    """floor(L/q) = x means L = q*x + u with 0 <= u < q; L mod q = x means L = x + q*u."""
    sign = left.terms[0][1]
    value = (target - left.const) * sign
    if isinstance(atom, Floor):
        offset = axis_index(solution.fresh(atom.divisor))
        return atom.inner, value * atom.divisor + offset
    low, high = atom.inner.bounds(solution.extents)
    first = low // atom.divisor
    turns = axis_index(solution.fresh(high // atom.divisor - first + 1)) + first
    solution.require(Guard(value, 0, atom.divisor))
    return atom.inner, value + turns * atom.divisor


def _split_digits(left: Index, target: Index, free: list[str], solution: Solution) -> bool:
    """Digits of a mixed radix: sum of c_k * i_k = x, each c_k * extent_k <= c_(k+1), c_1 = 1.

    There is exactly one solution: i_k = x // c_k mod c_(k+1) / c_k. Windows that do not overlap
    (s*i + r with r < s) and reshapes have this form.
    """
    names = sorted(free, key=left.coefficient)
    sizes = [left.coefficient(name) for name in names]
    if len(names) < 2 or sizes[0] != 1:
        return False
    for name, size, larger in zip(names, sizes, sizes[1:], strict=False):
        if larger % size or solution.extents[name] * size > larger:
            return False
    rest = left
    for name, size in zip(names, sizes, strict=True):
        rest = rest - axis_index(name) * size
    if not rest.names.isdisjoint(solution.free):
        return False
    offset = target - rest
    solution.assign(names[-1], offset // sizes[-1])
    for name, size, larger in reversed(list(zip(names, sizes, sizes[1:], strict=False))):
        solution.assign(name, offset // size % (larger // size))
    return True
