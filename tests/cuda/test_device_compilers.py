"""The same kernel texts through NVIDIA's compilers: no warning, and the instructions meant."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from graphc.backends.cuda.cubin import kernel_codes
from graphc.backends.cuda.nvrtc import INSTALL_HINT, find_nvrtc
from graphc.backends.templating import template_folder
from tests.cuda.device import SM_80, SM_90A
from tests.cuda.programs import all_instructions

INCLUDE = template_folder() / "cuda"
CASES = [
    *((path, "sm_80") for path in sorted(SM_80.glob("*.cu"))),
    (SM_80 / "gemm.cu", "sm_90a"),
    *((path, "sm_90a") for path in sorted(SM_90A.glob("*.cu"))),
]
INSTRUCTIONS = {
    "sm_80/gemm": ["HMMA.16816.F32.BF16", "LDGSTS.E.BYPASS.128", "LDSM.16.M88.4"],
    "sm_80/wrappers": ["HMMA.16816.F32", "HMMA.1688.F32.TF32", "LDGSTS.E.64", "LDSM.16.MT88.4",
                       "SHFL.BFLY", "SHFL.DOWN", "SHFL.IDX"],
    "sm_90a/cluster": ["HGMMA.64x64x16.F32.BF16", "UTMALDG.2D.MULTICAST", "UCGABAR_ARV",
                       "USETMAXREG"],
    "sm_90a/pipeline": ["HGMMA.64x64x16.F32.BF16", "UTMALDG.2D", "USETMAXREG"],
    "sm_90a/wrappers": [*(f"HGMMA.64x{n}x16.F32.BF16" for n in (16, 32, 64, 128, 256)),
                        *(f"UTMALDG.{n}D" for n in (2, 3, 4, 5))],
}  # fmt: skip


def name_of(value: object) -> str:
    return f"{value.parent.name}/{value.stem}" if isinstance(value, Path) else str(value)


def compile_with_nvcc(path: Path, architecture: str, folder: Path) -> tuple[Path, str]:
    """The binary, and what the compiler says of registers and spills."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on the PATH: install a CUDA toolkit to compile for a device")
    binary = folder / f"{path.stem}.cubin"
    done = subprocess.run(
        [nvcc, f"-arch={architecture}", "-cubin", "-std=c++17", "-Werror=all-warnings", "-I",
         str(INCLUDE), "-Xptxas=-v,-warn-spills", str(path), "-o", str(binary)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return binary, done.stderr


@pytest.mark.parametrize(("path", "architecture"), CASES, ids=name_of)
def test_nvcc_compiles_the_text_without_a_warning(
    path: Path, architecture: str, tmp_path: Path
) -> None:
    _, said = compile_with_nvcc(path, architecture, tmp_path)
    assert "warning" not in said.lower()
    assert "Potential Performance Loss" not in said
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}


@pytest.mark.parametrize("path", [p for p, a in CASES if a == p.parent.name], ids=name_of)
def test_the_wrappers_become_the_instructions_they_are_named_for(
    path: Path, tmp_path: Path
) -> None:
    binary, _ = compile_with_nvcc(path, path.parent.name, tmp_path)
    found = all_instructions([binary], path.parent.name)
    missing = [name for name in INSTRUCTIONS[name_of(path)] if not any(
        each == name or each.startswith(f"{name}.") for each in found
    )]  # fmt: skip
    assert not missing, sorted(found)


@pytest.mark.parametrize(("path", "architecture"), CASES, ids=name_of)
def test_nvrtc_compiles_the_text_with_no_other_header(path: Path, architecture: str) -> None:
    nvrtc = find_nvrtc()
    if nvrtc is None:
        pytest.skip(f"NVRTC is not installed: {INSTALL_HINT}")
    headers = (("gc_device.cuh", (INCLUDE / "gc_device.cuh").read_text("utf-8")),)
    options = (f"-arch={architecture}", "-std=c++17", "--ptxas-options=-v")
    code, said = nvrtc.compile(path.read_text("utf-8"), path.name, options, headers)
    assert kernel_codes(code)
    assert "warning" not in said.lower()
    assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}
