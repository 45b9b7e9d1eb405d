"""Every contraction of a training step becomes the machine instructions that its text asks for."""

import re
from collections import Counter
from pathlib import Path

import pytest

from graphc.backends.cuda.compile import Compiled, compile_sources, find_device_compiler
from graphc.backends.cuda.disassemble import (
    INSTALL_HINT,
    expected_instructions,
    instructions,
    missing_instructions,
)
from graphc.backends.cuda.emit import Emitted
from graphc.errors import ToolchainError
from graphc.inspect.emitted import emitted_for, kernel_reports, kernel_texts
from graphc.inspect.subject import model_subject
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.plan import make_schedule
from graphc.train.network import build_model, make_optimizer

ARCHITECTURES = ("sm_80", "sm_90a")
# What multiplies, by the wrapper that a text calls, with the variant of the instruction.
TIERS = {
    "gc_wgmma_bf16": r"HGMMA\.64x\d+x16\.F32\.BF16",
    "gc_wgmma_f16": r"HGMMA\.64x\d+x16\.F32",
    "gc_mma_bf16": r"HMMA\.16816\.F32\.BF16",
    "gc_mma_f16": r"HMMA\.16816\.F32",
    "gc_mma_tf32": r"HMMA\.1688\.F32\.TF32",
}
SMALL = {"image": 32, "head": 64, "classes": 10, "width": 0.5, "dropout": 0.0}
LARGE = {"dropout": 0.5}


def step_sources(precision: str, batch: int, options: dict[str, object]) -> dict[str, Emitted]:
    """CUDA of a VGG's training step for each architecture."""
    name = "vgg11" if options is SMALL else "vgg16"
    optimizer = make_optimizer("sgd", None, None, None)
    subject = model_subject(build_model(name, options), batch, optimizer, precision=precision)
    schedule = make_schedule(run_passes(subject.step, PRECISIONS[precision], copies=True))
    return {name: emitted_for(name, schedule, precision) for name in ARCHITECTURES}


def compiled(
    emitted: dict[str, Emitted], name: str, compiler: str | None = None
) -> dict[str, Compiled]:
    """Its cubins, or a skip that says what is not installed."""
    try:
        chosen = find_device_compiler(compiler)
    except ToolchainError as error:
        pytest.skip(str(error))
    return {
        architecture: compile_sources(name, one.files, (architecture,), compiler=chosen)
        for architecture, one in emitted.items()
    }


def check_contractions(
    emitted: dict[str, Emitted], made: dict[str, Compiled], precision: str
) -> set[str]:
    """Of each product by tiles: the promised instructions, of the promised type, nothing local.

    Returns what multiplies.
    """
    used: set[str] = set()
    for architecture, one in emitted.items():
        texts = {name: text for file in one.files for name, text in kernel_texts(file).items()}
        tiled = {name for name, text in texts.items() if expected_instructions(text)}
        assert len(tiled) > 20
        cubins = list(dict.fromkeys(made[architecture].cubins.values()))
        found = instructions(cubins, architecture)
        if found is None:
            pytest.skip(f"there is no nvdisasm: {INSTALL_HINT}")
        for name in tiled:
            counts = found[made[architecture].symbols[name]]
            what = f"{name}, {architecture}"
            assert not missing_instructions(texts[name], counts), what
            assert not {"LDL", "STL"} & {each.partition(".")[0] for each in counts}, what
            tiers = [tier for tier in TIERS if re.search(rf"\b{tier}\b", texts[name])]
            assert bool(tiers) == (precision != "fp32"), what
            for tier in tiers:
                assert any(re.fullmatch(TIERS[tier], each) for each in counts), (what, counts)
            used |= {f"{architecture} {tier}" for tier in tiers}
    return used


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fp32", "tf32", "fp16")]


@pytest.mark.parametrize("precision", ["bf16", *SLOW])
def test_contractions_of_a_small_vgg(precision: str) -> None:
    emitted = step_sources(precision, 16, SMALL)
    used = check_contractions(emitted, compiled(emitted, f"small_{precision}"), precision)
    assert bool(used) == (precision != "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_vgg16_at_its_real_size(precision: str, compiler: str) -> None:
    emitted = step_sources(precision, 64, LARGE)
    made = compiled(emitted, f"vgg16_{precision}", compiler)
    for architecture, one in emitted.items():
        reports = kernel_reports(made[architecture], one)
        assert {r.kernel for r in reports} == {
            launch.kernel for launch in (*one.launches, *one.copies)
        }
        for report in reports:
            assert report.registers <= 255, report
            assert not report.uses_local_memory, report
            assert report.shared <= (163 << 10 if architecture == "sm_80" else 227 << 10)
    used = check_contractions(emitted, made, precision)
    half = {"bf16": "bf16", "fp16": "f16"}.get(precision)
    if half is not None:
        assert {f"sm_80 gc_mma_{half}", f"sm_90a gc_wgmma_{half}"} <= used


def test_a_missing_instruction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: a disassembler that shows no products."""
    emitted = step_sources("bf16", 16, SMALL)
    made = compiled(emitted, "small_bf16")

    def blind(cubins: list[Path], architecture: str) -> dict[str, Counter[str]]:
        return {
            name: Counter(LDGSTS=1, LDSM=1)
            for one in made.values()
            for name in one.symbols.values()
        }

    monkeypatch.setitem(globals(), "instructions", blind)
    with pytest.raises(AssertionError, match="sm_80"):
        check_contractions(emitted, made, "bf16")
