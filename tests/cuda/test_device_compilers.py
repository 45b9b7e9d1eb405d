"""The same kernel texts through NVIDIA's compilers: no warning, and the instructions meant."""

import ctypes
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from graphc.backends.templating import template_folder
from tests.cuda.device import SM_80, SM_90A

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


def instructions(binary: Path) -> Counter[str]:
    """How often each machine instruction occurs."""
    for program, options in (("cuobjdump", ["--dump-sass"]), ("nvdisasm", [])):
        found = shutil.which(program)
        if found is not None and shutil.which("nvdisasm") is not None:
            done = subprocess.run(
                [found, *options, str(binary)], capture_output=True, text=True, check=True
            )
            return Counter(re.findall(r"\b[A-Z][A-Z0-9_]+(?:\.[A-Za-z0-9_]+)*\b", done.stdout))
    pytest.skip(
        "there is no nvdisasm on the PATH: pip install nvidia-cuda-nvdisasm nvidia-cuda-cuobjdump"
    )


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
    found = instructions(binary)
    missing = [name for name in INSTRUCTIONS[name_of(path)] if not any(
        each == name or each.startswith(f"{name}.") for each in found
    )]  # fmt: skip
    assert not missing, sorted(found)


def find_nvrtc() -> ctypes.CDLL:
    """NVRTC from its wheel; its second library has to be loaded first."""
    for folder in map(Path, sys.path):
        for library in sorted(folder.glob("nvidia/*/lib/libnvrtc.so.*")):
            for builtins in sorted(library.parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(library))
    pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize(("path", "architecture"), CASES, ids=name_of)
def test_nvrtc_compiles_the_text_with_no_other_header(path: Path, architecture: str) -> None:
    nvrtc = find_nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    headers = (ctypes.c_char_p * 1)((INCLUDE / "gc_device.cuh").read_bytes())
    names = (ctypes.c_char_p * 1)(b"gc_device.cuh")
    options = (ctypes.c_char_p * 2)(f"-arch={architecture}".encode(), b"-std=c++17")
    text, label = path.read_bytes(), path.name.encode()
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, label, 1, headers, names)
    failed = nvrtc.nvrtcCompileProgram(program, 2, options)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert not failed, log.value.decode()
    assert b"warning" not in log.value
