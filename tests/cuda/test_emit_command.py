"""`graphc emit`: CUDA of a step in a folder, compiled without a GPU by what there is."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphc.backends.cuda.compile import compile_sources, find_device_compiler
from graphc.backends.cuda.disassemble import find_disassembler
from graphc.backends.cuda.nvrtc import find_nvrtc
from graphc.cli import main
from graphc.errors import ToolchainError, UserError
from graphc.ir.source import SourceFile

SMALL = ("lenet5", "--batch", "16")


def choose(compiler: str, patch: pytest.MonkeyPatch) -> None:
    """Compile with this one, or skip."""
    if compiler == "nvcc" and shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc on the PATH: install a CUDA toolkit")
    if compiler == "nvrtc" and find_nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    patch.setenv("GRAPHC_CUDA_COMPILER", compiler)


@pytest.mark.parametrize("compiler", [pytest.param("nvcc", marks=pytest.mark.slow), "nvrtc"])
def test_a_step_is_written_compiled_and_described(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(compiler, monkeypatch)
    folder = tmp_path / "out"
    words = ["emit", *SMALL, "--arch", "sm_80,sm_90a", "--dtype", "bf16", "-o", str(folder)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    sources = sorted(p.name for p in folder.glob("*.cu"))
    assert "conv1_forward.cu" in sources
    assert len(list(folder.glob("*.cubin"))) == 2 * len(sources)
    assert (folder / "gc_device.cuh").exists()
    reports = json.loads((folder / "kernels.json").read_text())
    assert {r["architecture"] for r in reports} == {"sm_80", "sm_90a"}
    assert all(r["spills"] == r["stack"] == 0 and 0 < r["registers"] < 256 for r in reports)
    products = [r for r in reports if r["kernel"].startswith("fc") and r["shared"] > 2**15]
    assert products
    if find_disassembler() is not None:
        assert all(r["instructions"]["HMMA"] and r["instructions"]["LDGSTS"] for r in products)
        assert not any({"LDL", "STL"} & set(r["instructions"]) for r in reports)
    assert "launches a step" in done.output
    assert done.output.count("conv1_forward") >= 2


def test_an_architecture_that_is_none(tmp_path: Path) -> None:
    words = ["emit", *SMALL, "--arch", "hopper", "-o", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "there is no architecture 'hopper'" in done.output


KERNEL = """#include "gc_device.cuh"
extern "C" __global__ void twice(float *x) {
  x[threadIdx.x] *= 2.0f;
}
"""


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_cubins_are_cached_and_checked(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(compiler, monkeypatch)
    file = SourceFile("twice.cu", KERNEL)
    steps: list[tuple[int, int, str]] = []
    first = compile_sources("cached", [file], ["sm_80"], lambda *step: steps.append(step))
    again = compile_sources("cached", [file], ["sm_80"])
    assert (first.folder, again.compiled) == (again.folder, False)
    assert steps == ([(1, 1, "twice.sm_80.cubin")] if first.compiled else [])
    [resources] = again.resources
    assert (resources.kernel, resources.architecture) == ("twice", "sm_80")
    path = again.cubins["twice.cu", "sm_80"]
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    repaired = compile_sources("cached", [file], ["sm_80"])
    assert repaired.compiled
    assert repaired.cubins["twice.cu", "sm_80"].read_bytes() == good


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_a_text_that_is_refused_is_shown(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(compiler, monkeypatch)
    file = SourceFile("wrong.cu", KERNEL.replace("2.0f", "unheard_of"))
    with pytest.raises(ToolchainError) as error:
        compile_sources("wrong", [file], ["sm_80"])
    assert "unheard_of" in str(error.value)
    assert "sources:" in str(error.value)


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.backends.cuda.compile.find_nvrtc", lambda: None)
    monkeypatch.setattr("graphc.backends.cuda.compile._nvcc_path", lambda: None)
    with pytest.raises(ToolchainError, match="pip install nvidia-cuda-nvrtc"):
        find_device_compiler()
    monkeypatch.setenv("GRAPHC_CUDA_COMPILER", "icc")
    with pytest.raises(UserError, match="legal: nvcc, nvrtc"):
        find_device_compiler()
