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
from graphc.backends.cuda.emit import Emitted, emit
from graphc.errors import ToolchainError
from graphc.inspect.emitted import kernel_reports, kernel_texts
from graphc.inspect.subject import model_subject
from graphc.lower.grid import lower_to_grid
from graphc.passes.pipeline import run_passes
from graphc.passes.precision import PRECISIONS
from graphc.schedule.plan import make_schedule
from graphc.train.network import build_model, make_optimizer

ARCHITECTURES = ("sm_80", "sm_90a")
# What multiplies, by the wrapper that a text calls, with the variant of the instruction.
TIERS = {
    "gc_wgmma_bf16": r"HGMMA\.64x\d+x16\.F32\.BF16",
    "gc_mma_bf16": r"HMMA\.16816\.F32\.BF16",
    "gc_mma_f16": r"HMMA\.16816\.F32",
    "gc_mma_tf32": r"HMMA\.1688\.F32\.TF32",
}
SMALL = {"image": 32, "head": 64, "classes": 10, "width": 0.5, "dropout": 0.0}
LARGE = {"dropout": 0.5}


def step_sources(
    precision: str, batch: int, options: dict[str, object], boxes: bool = False
) -> Emitted:
    """CUDA of a VGG's training step."""
    name = "vgg11" if options is SMALL else "vgg16"
    optimizer = make_optimizer("sgd", None, None, None)
    subject = model_subject(build_model(name, options), batch, optimizer, precision=precision)
    schedule = make_schedule(run_passes(subject.step, PRECISIONS[precision], copies=True))
    return emit(schedule, lower_to_grid(schedule, tf32=precision == "tf32", boxes=boxes))


def compiled(
    emitted: Emitted, name: str, compiler: str | None = None,
    architectures: tuple[str, ...] = ARCHITECTURES,
) -> Compiled:  # fmt: skip
    """Its cubins, or a skip that says what is not installed."""
    try:
        chosen = find_device_compiler(compiler)
    except ToolchainError as error:
        pytest.skip(str(error))
    return compile_sources(name, emitted.files, architectures, compiler=chosen)


def check_contractions(emitted: Emitted, made: Compiled, precision: str) -> None:
    """Of each product by tiles: the promised instructions, of the promised type, nothing local."""
    texts = {name: text for file in emitted.files for name, text in kernel_texts(file).items()}
    tiled = {name for name, text in texts.items() if expected_instructions(text)}
    assert len(tiled) > 20
    for architecture in ARCHITECTURES:
        cubins = [p for (_, a), p in made.cubins.items() if a == architecture]
        found = instructions(list(dict.fromkeys(cubins)), architecture)
        if found is None:
            pytest.skip(f"there is no nvdisasm: {INSTALL_HINT}")
        for name in tiled:
            counts, what = found[made.symbols[name]], f"{name}, {architecture}"
            assert not missing_instructions(texts[name], counts), what
            assert not {"LDL", "STL"} & {one.partition(".")[0] for one in counts}, what
            tiers = [tier for tier in TIERS if f"{tier}(" in texts[name]]
            assert bool(tiers) == (precision != "fp32"), what
            for tier in tiers:
                assert any(re.fullmatch(TIERS[tier], one) for one in counts), (what, counts)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_contractions_of_a_small_vgg(precision: str) -> None:
    emitted = step_sources(precision, 16, SMALL)
    check_contractions(emitted, compiled(emitted, f"small_{precision}"), precision)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_vgg16_at_its_real_size(precision: str, compiler: str) -> None:
    emitted = step_sources(precision, 64, LARGE)
    made = compiled(emitted, f"vgg16_{precision}", compiler)
    reports = kernel_reports(made, emitted)
    assert {(r.kernel, r.architecture) for r in reports} == {
        (launch.kernel, a) for launch in (*emitted.launches, *emitted.copies) for a in ARCHITECTURES
    }
    for report in reports:
        assert report.registers <= 255, report
        assert not report.uses_local_memory, report
        assert report.shared <= (163 << 10 if report.architecture == "sm_80" else 227 << 10)
    check_contractions(emitted, made, precision)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_vgg16_by_boxes_at_its_real_size(precision: str, compiler: str) -> None:
    """All products but those of three channels; nothing is kept in memory, nothing serialised."""
    emitted = step_sources(precision, 64, LARGE, boxes=True)
    by_boxes = {f.name for f in emitted.files if "by boxes, tiles" in f.text}
    others = {f.name for f in emitted.files if "by tiles of" in f.text}
    assert len(by_boxes) == 45
    assert others == {"conv1_1_forward.cu", "conv1_1_weight_update.cu"}
    made = compiled(emitted, f"vgg16_{precision}_boxes", compiler, ("sm_90a",))
    for report in kernel_reports(made, emitted):
        if report.instructions is None:
            pytest.skip(f"there is no nvdisasm: {INSTALL_HINT}")
        assert report.registers <= 255, report
        assert not report.uses_local_memory, report
        assert not report.missing, report
        assert report.shared <= 227 << 10, report
        if f"{report.kernel}.cu" in by_boxes:
            assert {"HGMMA", "UTMALDG"} <= set(report.instructions), report


def test_a_missing_instruction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: a disassembler that shows no products."""
    emitted = step_sources("bf16", 16, SMALL)
    made = compiled(emitted, "small_bf16")

    def blind(cubins: list[Path], architecture: str) -> dict[str, Counter[str]]:
        return {name: Counter(LDGSTS=1, LDSM=1) for name in made.symbols.values()}

    monkeypatch.setattr("tests.cuda.test_instructions.instructions", blind)
    with pytest.raises(AssertionError, match="sm_80"):
        check_contractions(emitted, made, "bf16")
