"""The wheel is complete: installed away from the checkout, it trains a network."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that sees nothing of the checkout's settings, and give its output."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("GRAPHC_", "PYTEST_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel in it, and our dependencies in reach."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    bin_folder = folder / "venv" / "bin"
    pip = ("-m", "pip", "--python", bin_folder / "python", "--disable-pip-version-check")
    run(sys.executable, *pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # The .pth files in a folder named by a .pth file are not read: the checkout stays hidden.
    dependencies = sysconfig.get_path("purelib")
    (site_packages,) = folder.glob("venv/lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(dependencies + "\n")
    return bin_folder


def test_the_wheel_holds_the_package_and_its_templates_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    metadata = {top for top in tops if re.fullmatch(r"graphc_compiler-[\w.]+\.dist-info", top)}
    assert tops - metadata == {"graphc"}
    assert len(metadata) == 1

    packaged = {name for name in names if name.startswith("graphc/templates/")}
    templates = ROOT / "templates"
    in_checkout = {
        f"graphc/templates/{path.relative_to(templates)}"
        for path in templates.rglob("*")
        if path.is_file()
    }
    assert packaged == in_checkout
    assert not [name for name in names if name.endswith((".pyc", ".so", ".cubin"))]


def test_the_wheel_has_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = "import graphc; print(graphc.__file__)"
    printed = run(installed / "python", "-c", script, cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_installed_command_trains(installed: Path, tmp_path: Path) -> None:
    network = ("lenet5", "--data", "synthetic", "--image", "28", "--batch", "4", "--steps", "2")
    build = tmp_path / "build"
    printed = run(
        installed / "graphc", "train", *network, cwd=tmp_path, GRAPHC_BUILD_DIR=str(build)
    )
    assert re.search(r"loss.*?\d\.\d", printed, re.IGNORECASE | re.DOTALL), printed
    assert list(build.iterdir()), "nothing was generated in GRAPHC_BUILD_DIR"
