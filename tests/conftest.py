"""Fixtures that every test may use: golden texts, seeded random numbers, one build folder."""

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
DEFAULT_SEED = 20250
Golden = Callable[[str, str], None]

# Two workers with two threads each share the cores: waiting threads must not spin.
os.environ.setdefault("GOMP_SPINCOUNT", "100")

# The first example of a kernel also compiles it, so a deadline would measure the C compiler.
hypothesis.settings.register_profile("graphc", deadline=None, print_blob=True)
hypothesis.settings.load_profile("graphc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden with what the code prints now",
    )


@pytest.fixture(scope="session", autouse=True)
def build_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One build folder for all workers of a session, so that a kernel is compiled only once."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "graphc-build"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHC_BUILD_DIR", str(folder))
        yield folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden(name, text)` compares a text with tests/golden/<name>.txt, or rewrites the file."""
    update = request.config.getoption("--update-golden")

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            return
        compare_with_golden(path, text)

    return check


def compare_with_golden(path: Path, text: str) -> None:
    """Fail with a unified diff where the text is not, byte for byte, the file's."""
    advice = "if the new text is right, run: .venv/bin/python -m pytest --update-golden"
    if not path.exists():
        pytest.fail(f"there is no golden text {path}; {advice}", pytrace=False)
    expected = path.read_bytes().decode()
    if text == expected:
        return
    lines = difflib.unified_diff(
        expected.splitlines(keepends=True),
        text.splitlines(keepends=True),
        fromfile=f"{path.name} (golden)",
        tofile=f"{path.name} (now)",
    )
    diff = "".join(line if line.endswith("\n") else f"{line}\n(no end of line)\n" for line in lines)
    pytest.fail(f"the text differs from its golden text; {advice}\n{diff}", pytrace=False)


@pytest.fixture
def seeded() -> np.random.Generator:
    """A generator seeded by GRAPHC_TEST_SEED; pytest shows the printed seed where a test fails."""
    seed = int(os.environ.get("GRAPHC_TEST_SEED", DEFAULT_SEED))
    print(f"repeat these random numbers with GRAPHC_TEST_SEED={seed}")
    return np.random.default_rng(seed)
