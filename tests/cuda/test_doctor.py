"""What `graphc doctor` says on machines that have some of CUDA, all of them made up."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graphc.backends.cuda.compile import DeviceCompiler
from graphc.errors import ToolchainError, UserError
from graphc.inspect import doctor_cuda
from graphc.inspect.check import Check
from graphc.inspect.doctor import report
from tests.compiled import ROOT


class Machine:
    """What the checks ask of a machine; a test changes what it lacks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver: tuple[int, int] | None = (13, 0)
        self.compiler: DeviceCompiler | Exception = DeviceCompiler(("nvcc",), "13.0")
        self.pycuda = "2026.1"
        self.gpu: str | Exception = "NVIDIA H100"
        self.disassembler: str | None = "/opt/nvdisasm"
        for name, call in {
            "driver_version": lambda: self.driver,
            "find_device_compiler": lambda: self._given(self.compiler),
            "version_of": lambda package: self.pycuda,
            "open_device": lambda target: SimpleNamespace(name=self._given(self.gpu)),
            "find_disassembler": lambda: self.disassembler,
        }.items():
            monkeypatch.setattr(doctor_cuda, name, call)

    @staticmethod
    def _given(what: object) -> object:
        if isinstance(what, Exception):
            raise what
        return what

    def checks(self) -> dict[str, Check]:
        return {check.name: check for check in doctor_cuda.cuda_checks()}

    def faults(self) -> dict[str, str]:
        return {name: check.fix for name, check in self.checks().items() if check.fix}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_whole_machine_has_nothing_to_fix(machine: Machine) -> None:
    assert not machine.faults()
    found = {name: check.found for name, check in machine.checks().items()}
    assert found["CUDA driver"] == "for CUDA 13.0"
    assert found["CUDA compiler"] == "nvcc 13.0"
    assert found["GPU"] == "NVIDIA H100"


def test_no_driver(machine: Machine) -> None:
    machine.driver = None
    assert list(machine.faults()) == ["CUDA driver"]
    assert "nvidia-driver" in machine.faults()["CUDA driver"]
    assert "--gpus all" in machine.faults()["CUDA driver"]
    assert machine.checks()["PyCUDA"].found == "2026.1, of no use without a driver"
    assert "GPU" not in machine.checks()


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        ((12, 4), "pip install nvidia-cuda-nvrtc-cu12"),
        ((11, 8), "pip install nvidia-cuda-nvrtc-cu11"),
    ],
)
def test_a_driver_older_than_the_compiler(
    machine: Machine, driver: tuple[int, int], remedy: str
) -> None:
    machine.driver = driver
    assert list(machine.faults()) == ["CUDA compiler"]
    assert remedy in machine.faults()["CUDA compiler"]
    assert f"takes CUDA {driver[0]}" in machine.checks()["CUDA compiler"].found
    machine.compiler = DeviceCompiler(("nvcc",), "14.1")
    machine.driver = (13, 2)
    assert "'nvidia-cuda-nvrtc==13.*'" in machine.faults()["CUDA compiler"]


def test_a_driver_of_the_same_major_version_or_later(machine: Machine) -> None:
    machine.compiler = DeviceCompiler(("nvcc",), "13.5")
    assert not machine.faults()
    machine.driver = (14, 0)
    assert not machine.faults()


def test_no_toolkit_and_no_wheel(machine: Machine) -> None:
    machine.compiler = ToolchainError("CUDA text is compiled by NVRTC, or nvcc")
    assert machine.faults() == {"CUDA compiler": "pip install nvidia-cuda-nvrtc"}
    machine.compiler = UserError("GRAPHC_CUDA_COMPILER has an illegal value\n  legal: nvcc, nvrtc")
    assert machine.faults() == {"CUDA compiler": "legal: nvcc, nvrtc"}


def test_pycuda_is_not_there_or_not_built_for_this_machine(machine: Machine) -> None:
    machine.pycuda = ""
    assert list(machine.faults()) == ["PyCUDA"]
    assert "PyCUDA is compiled on the way" in machine.faults()["PyCUDA"]
    machine.pycuda = "2026.1"
    machine.gpu = ToolchainError("PyCUDA cannot be imported: undefined symbol\n  Install it: again")
    assert machine.faults() == {"GPU": "Install it: again"}


def test_no_device(machine: Machine) -> None:
    machine.gpu = ToolchainError(
        "the target 'cuda' needs a GPU\n  Without a GPU, target='cuda-emu'"
    )
    assert machine.faults() == {"GPU": "Without a GPU, target='cuda-emu'"}


def test_no_disassembler(machine: Machine) -> None:
    machine.disassembler = None
    assert list(machine.faults()) == ["disassembler"]
    assert "cuda-tools" in machine.faults()["disassembler"]


def test_what_cuda_lacks_does_not_stop_training_on_the_cpu(machine: Machine) -> None:
    machine.driver, machine.disassembler = None, None
    machine.compiler = ToolchainError("none")
    assert report(doctor_cuda.cuda_checks()).endswith("Networks can be trained here.")


DRIVER = """
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuInit(unsigned flags) { (void)flags; return 100; }
"""
PYCUDA = """
import ctypes
class Error(Exception): pass
def init():
    if ctypes.CDLL("libcuda.so.1").cuInit(0):
        raise Error("cuInit failed: no CUDA-capable device is detected")
"""


def made_up(folder: Path, pycuda: str) -> dict[str, str]:
    """Variables of a machine with an old driver, no GPU, and this module as pycuda.driver."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc on the PATH to make a driver with")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", folder / "driver.c", "-o", library], check=True)
    (folder / "pycuda").mkdir()
    (folder / "pycuda" / "__init__.py").write_text("")
    (folder / "pycuda" / "driver.py").write_text(pycuda)
    facts = folder / "pycuda-2026.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pycuda\nVersion: 2026.1\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}


@pytest.mark.parametrize(
    ("pycuda", "said"),
    [
        (PYCUDA, "needs a GPU: cuInit failed: no CUDA-capable device is detected"),
        ("raise ImportError('undefined symbol: cuInit')", "cannot be imported: undefined symbol"),
    ],
)
def test_the_command_on_a_machine_with_an_old_driver(
    tmp_path: Path, pycuda: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graphc", "doctor"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | made_up(tmp_path, pycuda), check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^CUDA driver +for CUDA 12\.4$", done.stdout, re.MULTILINE)
    assert said in done.stdout
    if "missing" not in done.stdout.partition("CUDA compiler")[2].partition("\n")[0]:
        assert "nvidia-cuda-nvrtc-cu12" in done.stdout  # this machine's compiler is of release 13
