"""The measurement on a GPU, without one: its parts, its checks, its table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import parts, report, run
from benchmarks.gpu.kernel_checks import check_kernel, check_kernels
from graphc.backends.cuda.run import DeviceProgram
from graphc.ops import activations, leaves, linear, losses, shape
from graphc.ops.convolution import conv2d
from graphc.ops.pooling import max_pool2d
from graphc.train.optimizers import SGD
from graphc.train.step import training_step

KERNEL = {"name": "conv1_1_forward", "seconds": 2e-3, "flops": 8 * 10**11, "bytes": 3 * 10**9}
STEP = {"seconds": [0.02, 0.016], "least": 0.015, "most": 0.03, "bytes": 3 << 30}


def document(**results: Any) -> dict[str, Any]:
    """What is on disk after these parts of a measurement on a GPU."""
    found = {
        "machine": {"device": "made-up GPU", "compiler": "NVRTC 13.0", "torch": None},
        "step": STEP, "kernels": [KERNEL, {**KERNEL, "name": "copy", "flops": 0}],
        "ceilings": {"bf16": 8e14, "copy": 3e12},
        "torch_eager": {**STEP, "seconds": [0.05, 0.04], "bytes": 5 << 30},
        "gradients": {"same": {"w": 0.001, "v": 0.002}, "float64": {"w": 0.3, "v": 0.1}},
        "repeat": True,
        "checks": {"of": 2, "kernels": [
            {"name": "a", "error": 1e-3, "elements": 500, "wrong": []},
            {"name": "b", "error": 1e-3, "elements": 700, "wrong": []},
        ]},
        "sanitizer_memcheck": {"clean": True, "said": ""},
    } | results  # fmt: skip
    records = {
        name: {"status": "done", "result": result, "seconds": 1.0} for name, result in found.items()
    }
    shape = {"image": 224, "batch": 128, "width": 1.0, "head": 4096, "classes": 1000}
    return {
        "command": [], "precision": "bf16", "target": "cuda", "timed": True, "shape": shape,
        "parts": records,
    }  # fmt: skip


def row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def test_rates_of_kernels_and_their_share_of_the_ceiling() -> None:
    text = report.text(document())
    assert row(text, "conv1_1_forward") == ["2.000", "400.0", "1500", "50"]
    assert row(text, "copy") == ["2.000", "0.0", "1500", "50"]
    without = report.text(document(ceilings=None))
    assert row(without, "conv1_1_forward")[-1] == "-"
    assert "ceilings: not measured" in without


def test_steps_are_compared_by_the_slower_median() -> None:
    text = report.text(document())
    ours = row(text, "graphc, one graph of launches")
    assert ours == ["20.000", "ms", "6400", "images/s", "3,072", "MiB"]
    assert row(text, "PyTorch, eager, channels last ")[-1] == "x2.50"
    assert row(text, "PyTorch, eager, contiguous") == ["not", "measured"]


def test_what_was_checked_is_counted() -> None:
    text = report.text(document())
    assert (
        "2 at most 2.0e-03 from the processor's in 16 bits (v), within 2e-02; "
        "2 at most 3.0e-01 from float64 (w)\n" in text
    )
    assert "2 of 2, 1,200 elements, right" in text
    assert "memcheck clean, racecheck not measured" in text
    wrong = {"name": "b", "error": 2.0, "elements": 5, "wrong": ["y: relative error 2"]}
    text = report.text(
        document(
            gradients={"float64": {"w": 0.2}}, repeat=False, checks={"of": 9, "kernels": [wrong]},
            sanitizer_memcheck={"clean": False, "said": "out of bounds"},
        )
    )  # fmt: skip
    assert "1 at most 2.0e-01 from float64 (w), BEYOND 2e-02" in text
    assert "1 of 9, 5 elements, 1 WRONG\n  b: y: relative error 2" in text
    assert "same bytes: NO" in text
    assert "memcheck FINDS ERRORS" in text


def test_a_table_of_what_is_there_so_far() -> None:
    broken = document()
    broken["parts"] = {
        "machine": broken["parts"]["machine"],
        "step": {"status": "failed with exit code 1", "result": None, "said": "a\nb: 700\n"},
        "torch_eager": {"status": "needs a GPU", "result": None},
    }
    text = report.text(json.loads(json.dumps(broken)))
    assert "step: failed with exit code 1: b: 700" in text
    assert row(text, "graphc, one graph of launches") == ["not", "measured"]
    assert "torch_eager" not in text


def test_options_are_checked_and_ordered(capsys: pytest.CaptureFixture[str]) -> None:
    options = run.parse(["--only", "checks,step", "--precision", "tf32", "--quick"])
    assert options.only == ["step", "checks"]
    assert (options.batch, options.image, options.seconds) == (128, 224, 480.0)
    assert options.out.name == "gpu_tf32.json"
    small = run.parse(["--target", "cuda-emu", "--batch", "2"])
    assert (small.batch, small.image, small.out.name) == (2, 32, "gpu_emulated.json")
    assert small.only == list(parts.PARTS)
    with pytest.raises(SystemExit):
        run.parse(["--only", "speed"])
    assert "'speed' is none of machine" in capsys.readouterr().err


def test_a_quick_run_fits_into_its_limits() -> None:
    """The first figures and checks come before what may take long."""
    order = list(parts.PARTS)
    assert order.index("step") < order.index("torch_eager") < order.index("checks")
    early = order[: order.index("ceilings")]
    assert sum(parts.PARTS[name].limit for name in early) < run.QUICK_SECONDS


def options(tmp_path: Path, *more: str) -> Any:
    words = ["--target", "cuda-emu", "--out", str(tmp_path / "gpu.json"), *more]
    return run.parse(words)


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    chosen = options(tmp_path, "--only", "machine,torch_eager,sanitizer_memcheck")
    found = run.measured(chosen)
    assert json.loads(chosen.out.read_text()) == found
    assert found["parts"]["machine"]["result"]["device"] == "cuda-emu"
    assert found["parts"]["torch_eager"]["status"] == "needs a GPU"
    assert not found["timed"]
    record = run.isolated("torch_eager", chosen, 300)  # as if there were one
    assert record["status"].startswith("failed with exit code")
    assert record["result"] is None
    assert "Error" in record["said"]


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    record = run.isolated("gradients", options(tmp_path), 0.2)
    assert record["status"] == "stopped after 0 s"
    assert record["seconds"] < 30
    late = options(tmp_path, "--only", "machine", "--seconds", "0")
    assert run.measured(late)["parts"]["machine"]["status"] == "no time was left"


def test_what_a_part_saved_outlives_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_options: Any, save: parts.Save) -> None:
        for number in range(3):
            save({"number": number})
        raise RuntimeError("an illegal address")

    monkeypatch.setitem(parts.PARTS, "step", parts.Part(fails, "fails", 1))
    with pytest.raises(RuntimeError):
        parts.run_part("step", options(tmp_path), tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text()) == {"number": 2}


@pytest.fixture(scope="module")
def program() -> DeviceProgram:
    """A step with convolutions, a pool, a dense layer, and arrays of 16 bits between them."""
    x, y = leaves.input("x", (4, 8, 12, 12)), leaves.input("y", (4,), "int64")
    v, w = leaves.parameter("v", (16, 8, 3, 3)), leaves.parameter("w", (16, 16, 3, 3))
    b, u = leaves.parameter("b", (16,)), leaves.parameter("u", (5, 16 * 36))
    hidden = activations.relu(conv2d(x, v, b, padding=1))
    hidden = max_pool2d(activations.relu(conv2d(hidden, w, padding=1)), 2)
    loss = losses.cross_entropy(linear.dense(shape.flatten(hidden), u), y)
    found = training_step(loss, SGD(0.1, momentum=0.9), target="cuda-emu", precision="bf16").program
    assert isinstance(found, DeviceProgram)
    return found


def test_every_kernel_is_right_on_fresh_inputs(program: DeviceProgram) -> None:
    records: list[dict[str, Any]] = []
    check_kernels(program, "bf16", 3, records.append)
    assert [r["name"] for r in records] == list(program.kernels)
    assert not [r for r in records if r["wrong"]]
    strategies = {kernel.strategy.partition(":")[0] for kernel in program.kernels.values()}
    assert {"contraction", "rows"} <= strategies
    assert all(r["elements"] for r in records)


@pytest.mark.parametrize(
    ("bits", "said"), [(None, "relative error"), (0xFF, "1 elements were not written")]
)
def test_a_wrong_result_is_noticed(
    program: DeviceProgram, bits: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = next(p for p in program.schedule.kernels if p.strategy == "contraction")
    run_kernel = program.run_kernel

    def spoiled(name: str, arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        results = run_kernel(name, arrays)
        for array in results.values():
            if bits is None:
                array[0] += 1000  # the first element is always looked at
            else:
                array[:1].view(np.uint8)[...] = bits
        return results

    monkeypatch.setattr(program, "run_kernel", spoiled)
    record = check_kernel(program, plan, "bf16", np.random.default_rng(1))
    assert any(said in line for line in record["wrong"]), record


def test_memory_is_known_before_it_is_allocated(program: DeviceProgram) -> None:
    arrays = {id(a): a.nbytes for a in program._arrays if a is not None}
    held = sum(arrays.values()) + program._arena.nbytes + program._workspace.nbytes
    assert program.memory.total == held
    assert program.memory.parameters == sum(a.nbytes for a in program.parameters.values())
    own = sum(a.nbytes for a in program.states.values())
    copies = 2 * sum(a.size for n, a in program.parameters.items() if n != "b")  # in 16 bits
    assert program.memory.states == own + copies
