"""`graphc emit`: CUDA of a step in a folder, compiled without a GPU by what there is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphc.backends.cuda.compile import compile_sources, find_device_compiler
from graphc.backends.cuda.cubin import kernel_codes
from graphc.backends.cuda.disassemble import (
    INSTALL_HINT,
    expected_instructions,
    find_disassembler,
    instructions,
    missing_instructions,
)
from graphc.backends.cuda.nvrtc import find_nvrtc
from graphc.backends.cuda.twins import find_twins
from graphc.cli import main
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.inspect.emitted import KernelReport, verdict_lines
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
    assert "no kernel spills or uses local memory" in done.output
    for name in ("sm_80", "sm_90a"):
        assert (folder / name / "conv1_forward.cu").exists()
        assert (folder / name / "gc_device.cuh").exists()
    reports = json.loads((folder / "kernels.json").read_text())
    assert {r["architecture"] for r in reports} == {"sm_80", "sm_90a"}
    assert all(r["spills"] == r["stack"] == 0 and 0 < r["registers"] < 256 for r in reports)
    cubins = {p.name: kernel_codes(p.read_bytes()) for p in folder.glob("*/*.cubin")}
    assert {r["cubin"] for r in reports} == set(cubins)
    assert all(r["symbol"] in cubins[r["cubin"]] for r in reports)
    assert len(cubins) <= len(list(folder.glob("*/*.cu")))
    products = [r for r in reports if r["kernel"].startswith("fc") and r["shared"] > 2**15]
    assert products
    if find_disassembler() is not None:
        assert all({"LDGSTS", "LDSM"} <= set(r["instructions"]) for r in products)
        assert all({"HMMA", "HGMMA"} & set(r["instructions"]) for r in products)
        assert not any({"LDL", "STL"} & set(r["instructions"]) for r in reports)
        assert "each has the instructions that its text asks for" in done.output
    assert not any(r["missing"] for r in reports)
    assert "launches a step" in done.output
    assert done.output.count("conv1_forward") >= 2


def test_what_is_no_cubin_is_refused() -> None:
    with pytest.raises(CompilerBug, match="not a 64-bit ELF file"):
        kernel_codes(b"#include")


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
    for asked in (None, "nvcc", "nvrtc"):
        with pytest.raises(ToolchainError, match="pip install nvidia-cuda-nvrtc") as error:
            find_device_compiler(asked)
        assert (asked or "NVRTC, or nvcc") in str(error.value)
    monkeypatch.setenv("GRAPHC_CUDA_COMPILER", "icc")
    with pytest.raises(UserError, match="legal: nvcc, nvrtc"):
        find_device_compiler()


TWINS = """#include "gc_device.cuh"

// first[i] = 2 * second[i]
extern "C" __global__ void __launch_bounds__(32)
    NAME(const float *__restrict__ FIRST, float *__restrict__ SECOND) {
  const int thread = (int)threadIdx.x;
  const float SECOND_value = FACTORf * fmaxf(FIRST[thread], 0.0f);
  SECOND[thread] = SECOND_value;
}
"""


def renamed(name: str, first: str = "x", second: str = "y", factor: str = "2.0") -> SourceFile:
    text = TWINS.replace("NAME", name).replace("FIRST", first)
    return SourceFile(f"{name}.cu", text.replace("SECOND", second).replace("FACTOR", factor))


def changed(file: SourceFile, name: str, old: str, new: str) -> SourceFile:
    """The kernel under another name, with one thing in it changed."""
    assert old in file.text
    text = file.text.replace(f" {file.name.removesuffix('.cu')}(", f" {name}(")
    return SourceFile(f"{name}.cu", text.replace(old, new))


def test_texts_that_differ_in_names_alone_are_equal() -> None:
    one, two = renamed("one"), renamed("two", "z_2", "x")
    turned = renamed("turned", "y", "x")  # other names, in the same places
    other = renamed("other", factor="3.0")
    called = changed(one, "called", "fmaxf", "fminf")
    swapped = changed(one, "swapped", "y[thread] = y_value", "y[thread] = x[thread]")
    twins = find_twins([one, two, turned, other, called, swapped])
    assert twins.distinct == (one, other, called, swapped)
    assert twins.source_of["two.cu"] == twins.source_of["turned.cu"] == "one.cu"
    assert twins.symbol_of == {
        "one": "one", "two": "one", "turned": "one", "other": "other", "called": "called",
        "swapped": "swapped",
    }  # fmt: skip


def test_members_and_suffixes_are_no_names() -> None:
    """A parameter called x is not the x of threadIdx.x, nor is f the suffix of a number."""
    files = [renamed("of_x", "x"), renamed("of_f", "f"), renamed("of_z", "z")]
    assert len(find_twins(files).distinct) == 1
    aside = changed(files[0], "aside", "threadIdx.x", "threadIdx.y")
    assert len(find_twins([*files, aside]).distinct) == 2


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_equal_kernels_are_compiled_once(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(compiler, monkeypatch)
    names: list[str] = []
    files = [renamed("one"), renamed("two", "u", "v"), renamed("three", factor="3.0")]
    made = compile_sources("twins", files, ["sm_80", "sm_90a"], lambda _n, _of, f: names.append(f))
    assert sorted(names) == sorted({path.name for path in made.cubins.values()})
    assert len(set(made.cubins.values())) == 4
    assert made.cubins["two.cu", "sm_80"] == made.cubins["one.cu", "sm_80"]
    assert made.symbols == {"one": "one", "two": "one", "three": "three"}
    assert [(r.architecture, r.kernel) for r in made.resources] == [
        (a, k) for a in ("sm_80", "sm_90a") for k in ("one", "three", "two")
    ]
    assert set(kernel_codes(made.cubins["two.cu", "sm_90a"].read_bytes())) == {"one"}


def test_the_compilers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one release they write the same loads and stores for a simple kernel."""
    counts, versions = [], []
    for compiler in ("nvcc", "nvrtc"):
        choose(compiler, monkeypatch)
        versions.append(find_device_compiler().name.split()[-1])
        made = compile_sources("agree", [renamed("one")], ["sm_90a"])
        counts.append(instructions(list(set(made.cubins.values())), "sm_90a"))
    if counts[0] is None:
        pytest.skip(f"there is no disassembler: {INSTALL_HINT}")
    if versions[0] != versions[1]:
        pytest.skip(f"nvcc {versions[0]} and NVRTC {versions[1]} are not of one release")
    kinds = ("LDG", "STG", "EXIT")
    ours, theirs = (
        {kind: sum(n for one, n in found["one"].items() if one.startswith(kind)) for kind in kinds}
        for found in counts
    )
    assert ours == theirs
    assert all(ours.values()), ours


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("gc_mma_bf16(d, a, b)", ("HMMA",)),
        ("gc_cp_async8(x, y)", ("LDGSTS",)),
        ("gc_ldmatrix_x4_trans(w, x)", ("LDSM",)),
        ("gc_wgmma_bf16<64>(d, a, b)", ("HGMMA",)),
        ("gc_tma_load_4d(x, map, b, 0, 0, 0, 0)", ("UTMALDG",)),
        ("sum[i][j] += a[i][lane] * b[j][lane]", ("FFMA", "DFMA", "IMAD")),
    ],
)
def test_a_text_says_which_instructions_it_needs(call: str, names: tuple[str, ...]) -> None:
    assert expected_instructions(call) == (names,)
    assert not expected_instructions("gc_cp_async_commit_group(); gc_wgmma_fence(d);")
    assert missing_instructions(call, {"MOV": 3}) == [" or ".join(names)]
    assert not missing_instructions(call, {f"{names[-1]}.X": 1})


def test_what_is_wrong_with_kernels_is_said() -> None:
    good = KernelReport("k", "sm_80", 32, 0, 0, 0, ("HMMA",), {"HMMA": 2}, (), "k.sm_80.cubin", "k")
    [verdict, counted] = verdict_lines([good])
    assert verdict.startswith("no kernel spills or uses local memory; each has")
    assert counted.startswith("1 kernels in 1 cubins")
    for bad in ({"spills": 8}, {"stack": 8}, {"instructions": {"STL": 1}}):
        assert verdict_lines([good, replace(good, **bad)])[0] == (
            "k, sm_80: keeps values of a thread in memory"
        )
    wrong = replace(good, instructions={}, missing=("HMMA",))
    assert "asks for HMMA, which is missing" in verdict_lines([wrong])[0]
    unknown = replace(good, instructions=None)
    assert "cuda-tools" in verdict_lines([unknown])[0]
