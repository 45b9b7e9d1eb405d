"""The rules that keep graphc readable, enforced by reading its source.

To change a rule, edit the tables. An import under `if TYPE_CHECKING` counts like any other.
"""

import ast
import graphlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "graphc"

# A room imports itself and the rooms to its left.
ROOMS = (
    "errors",
    "ir",
    "ops",
    "evaluate",
    "dsl",
    "autodiff",
    "passes",
    "verify",
    "schedule",
    "lower",
    "backends",
    "tune",
    "compiler",
    "train",
    "inspect",
    "",  # graphc/__init__.py, the public names: only what stands to its right imports it
    "cli",
    "__main__",
)

# Where a library may be imported: rooms, or modules by their dotted path below graphc.
HOMES = {
    "ml_dtypes": ("ir.types",),
    "sympy": (
        "ir",
        "ops",
        "autodiff",
        "evaluate",
        "passes",
        "verify",
        "lower.freeze",
        "inspect",
    ),
    "jinja2": ("backends.templating", "inspect"),
    "pycuda": ("backends.cuda",),
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    target: str  # the module where it is known, else the dotted text
    line: int
    in_function: bool


@dataclass(frozen=True)
class Module:
    name: str
    where: str
    lines: int
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def below(self) -> str:
        """The dotted path below the package, such as `ir.types`; empty for the package itself."""
        return self.name.partition(".")[2]


def read_package(package: Path) -> tuple[Module, ...]:
    paths = {module_name(package, path): path for path in sorted(package.rglob("*.py"))}
    return tuple(read_module(name, path, frozenset(paths)) for name, path in paths.items())


def module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_module(name: str, path: Path, known: frozenset[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(find_imports(tree, package, known))
    where = str(path.relative_to(path.parents[name.count(".") + (path.name == "__init__.py")]))
    return Module(name, where, len(text.splitlines()), tree, imports)


def find_imports(tree: ast.Module, package: str, known: frozenset[str]) -> Iterator[Import]:
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, in_function = pending.pop()
        inside = in_function or isinstance(node, FUNCTIONS)
        pending += [(child, inside) for child in ast.iter_child_nodes(node)]
        for target in targets(node, package, known):
            yield Import(target, node.lineno, in_function)


def targets(node: ast.AST, package: str, known: frozenset[str]) -> tuple[str, ...]:
    """What one statement imports; `from a import b` is `a.b` where that is a module, else `a`."""
    if isinstance(node, ast.Import):
        return tuple(alias.name for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return ()
    base = node.module or ""
    if node.level:
        anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*anchor, base] if base else anchor)
    full = [f"{base}.{alias.name}" for alias in node.names]
    return tuple(dict.fromkeys(name if name in known else base for name in full))


def is_ours(target: str) -> bool:
    return target.split(".")[0] == "graphc"


def room(name: str) -> str:
    """The room of a module: the first name below graphc."""
    return name.partition(".")[2].partition(".")[0]


def unknown_rooms(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        if room(module.name) not in ROOMS:
            yield f"{module.where}: room {room(module.name)!r} has no place in ROOMS"


def imports_to_the_right(modules: tuple[Module, ...]) -> Iterator[str]:
    order = {name: place for place, name in enumerate(ROOMS)}
    for module in modules:
        here = order.get(room(module.name), len(ROOMS))
        for found in module.imports:
            if is_ours(found.target) and order.get(room(found.target), len(ROOMS)) > here:
                yield f"{module.where}:{found.line}: imports {found.target}, to its right"


def import_cycles(modules: tuple[Module, ...]) -> Iterator[str]:
    graph = {
        module.name: {found.target for found in module.imports if is_ours(found.target)}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # The sorter lists each module after the one that it imports.
        yield "import cycle: " + " imports ".join(reversed(error.args[1]))


def imports_in_functions(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        for found in module.imports:
            if found.in_function and is_ours(found.target):
                yield f"{module.where}:{found.line}: imports {found.target} inside a function"


def libraries_away_from_home(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        for found in module.imports:
            library = found.target.split(".")[0]
            homes = HOMES.get(library)
            if homes is None or any(f"{module.below}.".startswith(f"{home}.") for home in homes):
                continue
            yield f"{module.where}:{found.line}: {library} may be imported only in {homes}"


def long_files(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        if module.lines > MAX_FILE_LINES:
            yield f"{module.where}: {module.lines} lines, at most {MAX_FILE_LINES}"


def long_functions(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, FUNCTIONS):
                continue
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                where = f"{module.where}:{node.lineno}"
                yield f"{where}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"


def missing_docstrings(modules: tuple[Module, ...]) -> Iterator[str]:
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield f"{module.where}: a module opens with why it exists"


Rule = Callable[[tuple[Module, ...]], Iterator[str]]

RULES: tuple[Rule, ...] = (
    unknown_rooms,
    imports_to_the_right,
    import_cycles,
    imports_in_functions,
    libraries_away_from_home,
    long_files,
    long_functions,
    missing_docstrings,
)


@pytest.fixture(scope="module")
def graphc() -> tuple[Module, ...]:
    modules = read_package(PACKAGE)
    assert modules, f"there is no Python file in {PACKAGE}"
    return modules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_graphc_keeps_the_rule(rule: Rule, graphc: tuple[Module, ...]) -> None:
    broken = list(rule(graphc))
    assert not broken, "\n" + "\n".join(broken)


GOOD = {
    "__init__.py": '"""Public names."""\nfrom graphc.compiler import build\n',
    "errors.py": '"""Errors."""\nclass UserError(Exception): ...\n',
    "ir/__init__.py": '"""Words."""\n',
    "ir/types.py": '"""Types."""\nimport sympy\nfrom ..errors import UserError\n',
    "lower/freeze.py": '"""The door."""\nfrom sympy import Expr\nfrom graphc.ir import types\n',
    "backends/cuda/run.py": '"""Runs."""\ndef run():\n    import pycuda.driver\n',
    "compiler.py": '"""The story."""\nfrom graphc.lower.freeze import Expr\ndef build(): ...\n',
    "cli.py": '"""Command."""\nfrom graphc import __version__\n',
}

BAD: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (unknown_rooms, {"attic/a.py": '"""A."""\n'}, "graphc/attic/a.py: room 'attic' has no place"),
    (
        imports_to_the_right,
        {"ir/graph.py": '"""G."""\nfrom graphc.lower import freeze\n'},
        "graphc/ir/graph.py:2: imports graphc.lower.freeze, to its right",
    ),
    (
        imports_to_the_right,
        {"ir/graph.py": '"""G."""\nfrom ..lower.freeze import Expr\n'},
        "graphc/ir/graph.py:2: imports graphc.lower.freeze, to its right",
    ),
    (
        imports_to_the_right,
        {"ir/graph.py": '"""G."""\nfrom graphc import build\n'},
        "graphc/ir/graph.py:2: imports graphc, to its right",
    ),
    (
        import_cycles,
        {
            "ir/a.py": '"""A."""\nfrom graphc.ir.b import x\n',
            "ir/b.py": '"""B."""\nfrom . import a\n',
        },
        "graphc.ir.a imports graphc.ir.b",
    ),
    (
        imports_in_functions,
        {"compiler.py": '"""C."""\ndef build():\n    if True:\n        import graphc.ir.types\n'},
        "graphc/compiler.py:4: imports graphc.ir.types inside a function",
    ),
    (
        libraries_away_from_home,
        {"lower/freezer.py": '"""N."""\nimport sympy.core\n'},
        "graphc/lower/freezer.py:2: sympy may be imported only in",
    ),
    (
        libraries_away_from_home,
        {"backends/c/printer.py": '"""P."""\nfrom jinja2 import Environment\n'},
        "graphc/backends/c/printer.py:2: jinja2 may be imported only in",
    ),
    (
        libraries_away_from_home,
        {"train/loop.py": '"""L."""\ndef run():\n    import pycuda.driver\n'},
        "graphc/train/loop.py:3: pycuda may be imported only in",
    ),
    (long_files, {"errors.py": '"""E."""\n' + "x = 1\n" * 400}, "401 lines, at most 400"),
    (
        long_functions,
        {"errors.py": '"""E."""\nclass A:\n    def long(self):\n' + "        x = 1\n" * 50},
        "graphc/errors.py:3: long has 51 lines, at most 50",
    ),
    (missing_docstrings, {"errors.py": ""}, "graphc/errors.py: a module opens with why"),
)


def write_package(folder: Path, files: dict[str, str]) -> tuple[Module, ...]:
    for name, text in files.items():
        path = folder / "graphc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_package(folder / "graphc")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_accepts_a_good_package(rule: Rule, tmp_path: Path) -> None:
    assert list(rule(write_package(tmp_path, GOOD))) == []


@pytest.mark.parametrize(("rule", "files", "message"), BAD, ids=[r.__name__ for r, _, _ in BAD])
def test_the_rule_sees_a_bad_package(
    rule: Rule, files: dict[str, str], message: str, tmp_path: Path
) -> None:
    broken = "\n".join(rule(write_package(tmp_path, GOOD | files)))
    assert message in broken


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)
