"""The benchmark suite reports what it measured; how fast anything is is not tested."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cpu import cases, machine, measure, pictures, report, run, sections
from benchmarks.cpu.worker import PeerFailed, Worker
from benchmarks.cpu.workers.prepared import random_arrays

TINY_NET = {"image": 32, "head": 8, "classes": 4, "width": 0.0625}
PEERS_OF_LAYERS = ("graphc", "torch", "torch_channels_last")


def tiny_worker(name: str) -> Worker:
    return Worker(name, isa="native", threads=1, patience=60)


def made_up(case: cases.Case, medians: dict[str, float], **more: Any) -> dict[str, Any]:
    """The record of a case whose three repetitions have these medians."""
    seconds = {name: [value, value / 2, value * 2] for name, value in medians.items()}
    return measure.summary(case, seconds, more.get("skipped", {}), {}, more.get("facts", {}))


@pytest.fixture
def document() -> dict[str, Any]:
    """Every section with figures that are easy to check by hand."""
    nets = cases.vgg16_cases([8], **TINY_NET)
    layers = cases.layer_cases()
    times = {"graphc": 0.5, "torch": 2.0, "torch_channels_last": 1.0}
    both = {"seconds": {"graphc": [4.0]}, "median": {"graphc": 4.0}, "skipped": {}}
    parts = {"graphc": {"start": 1.0, "build": 2.5, "first": 0.5}}
    triad = {"triad": {"bytes": 40_000_000_000}}
    return {
        "machine": machine.describe("native", 2),
        "repeat": 3,
        "sections": {
            "vgg16": [
                made_up(
                    case,
                    {**times, "torch_bf16": 0.1, "graphc_bf16": 0.04},
                    skipped={"jax": "not installed"},
                )
                for case in nets
            ],
            "layers": [made_up(case, times) for case in layers],
            "general": [made_up(case, times) for case in cases.general_cases()],
            "memory": [
                made_up(case, {**times, "triad": 2.0}, facts=triad) for case in cases.memory_cases()
            ],
            "compile": [
                {"case": {"name": "step", "what": what}, "parts": parts, **both}
                for what in ("cold", "warm")
            ],
            "rss": [
                {
                    "case": {"name": "batch 8", "what": "train"},
                    "peak": {"graphc": 100 << 20, "torch": 300 << 20},
                    "imports": {"graphc": 50 << 20, "torch": 200 << 20},
                    "skipped": {},
                }
            ],
        },
    }


def row(text: str, start: str) -> list[str]:
    """The cells after the label of the first line that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def test_images_per_second_and_the_ratio_to_the_fastest_in_float32(
    document: dict[str, Any],
) -> None:
    text = report.text({**document, "sections": {"vgg16": document["sections"]["vgg16"]}})
    rates = ["16.00", "4.00", "8.00", "80.00", "200.00"]
    assert row(text, "batch 8, train") == [*rates, "2.00", "2.50"]
    assert text.count("JAX skipped: not installed") == 1


def test_layers_are_rated_by_their_direct_flops(document: dict[str, Any]) -> None:
    text = report.layers_table(document["sections"]["layers"])
    cells = row(text, "conv1_2 64-64 @224, forward")
    gflops = 2 * 8 * 64 * 224 * 224 * 64 * 9 / 1e9
    assert cells[:2] == ["500.000", "1000.000"]
    assert [float(c) for c in cells[2:4]] == pytest.approx([gflops / 0.5, gflops / 1.0], abs=0.06)
    assert cells[4] == "2.00"
    assert cells[-1] == "channels_last"


def test_sums_count_layers_as_often_as_they_occur(document: dict[str, Any]) -> None:
    text = report.sums_table(document["sections"]["layers"])
    assert row(text, "forward of 13 layers")[:2] == ["6500.0", "13000.0"]
    assert row(text, "dgrad of 12 layers")[:2] == ["6000.0", "12000.0"]


def test_a_peer_that_is_missing_leaves_a_dash(document: dict[str, Any]) -> None:
    case = cases.layer_cases()[0]
    text = report.work_table([made_up(case, {"graphc": 0.5})])
    assert row(text, report.label(made_up(case, {})))[1] == "-"
    assert "forward of" not in report.sums_table([made_up(case, {"graphc": 0.5})])


def test_the_ceiling_is_the_triad_of_the_same_case(document: dict[str, Any]) -> None:
    text = report.memory_table(document["sections"]["memory"])
    size = 2 * 4 * 8 * 64 * 224 * 224 / 1e9
    ours, _, triad, percent, _ = row(text, "relu, forward")[2:]
    assert float(ours) == pytest.approx(size / 0.5, abs=0.06)
    assert (triad, percent) == ("20.0", f"{100 * size / 0.5 / 20:.0f}")


def test_the_whole_report_names_every_section(document: dict[str, Any]) -> None:
    text = report.text(document)
    assert all(title in text for title in report.TITLES.values())
    assert row(text, "graphc, cold") == ["1.00", "2.50", "0.50", "4.00"]
    assert row(text, "batch 8, train")
    assert re.search(r"^imports alone +50 +200$", text, re.MULTILINE)
    assert report.text(json.loads(json.dumps(document))) == text


def test_pictures_of_every_section(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    lines = list(pictures.draw(document, tmp_path))
    assert len(lines) == len(document["sections"])
    for name in document["sections"]:
        assert (tmp_path / f"cpu_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_options_are_checked_and_ordered(capsys: pytest.CaptureFixture[str]) -> None:
    options = run.parse(["--only", "rss,vgg16", "--batch", "1,8", "--repeat", "7"])
    assert (options.only, options.batch, options.repeat) == (["vgg16", "rss"], [1, 8], 7)
    assert run.stem(options) == "cpu_vgg16_rss"
    assert run.stem(run.parse(["--isa", "avx2"])) == "cpu_avx2"
    for wrong in (["--only", "speed"], ["--batch", "0"], ["--repeat", "x"], ["--peers", "abacus"]):
        with pytest.raises(SystemExit):
            run.parse(wrong)
    assert "'abacus' is none of graphc" in capsys.readouterr().err


def test_peers_are_grouped_by_memory_with_graphc_in_each() -> None:
    (case, _) = cases.vgg16_cases([32], image=224, head=4096, classes=1000, width=1.0)
    need = sections.network_bytes(case)
    peers = ("graphc", "torch", "torch_compile", "jax")
    assert sections.groups(peers, case, memory=100 * need) == [list(peers)]
    assert sections.groups(peers, case, memory=int(3.3 * need)) == [
        ["graphc", "torch", "torch_compile"],
        ["graphc", "jax"],
    ]
    assert sections.groups(("jax",), case, memory=need) == [["jax"]]


def test_groups_are_merged_into_one_record() -> None:
    (case, _) = cases.vgg16_cases([8], **TINY_NET)
    parts = [made_up(case, {"graphc": 1.0, "torch": 2.0}), made_up(case, {"graphc": 2.0, "jax": 2})]
    record = sections.merged(parts)
    assert record["ratio"] == {"torch": 2.0, "jax": 1.0}
    assert len(record["seconds"]["graphc"]) == 6
    assert record["median"]["graphc"] == 1.5


def test_rounds_are_pooled() -> None:
    (case, _) = cases.vgg16_cases([8], **TINY_NET)
    rounds = [
        made_up(case, {"graphc": 1.0, "torch": 2.0}) | {"error": {"graphc": 1e-6, "torch": 3e-6}},
        made_up(case, {"graphc": 2.0, "torch": 4.0}) | {"error": {"graphc": 2e-6}},
    ]
    record = sections.pooled(rounds)
    assert record["median"] == {"graphc": 1.5, "torch": 3.0}
    assert record["ratio"] == {"torch": 2.0}
    assert record["error"] == {"graphc": 2e-6, "torch": 3e-6}
    assert len(record["seconds"]["torch"]) == 6


def test_avx2_reaches_every_peer() -> None:
    variables = machine.worker_environment("avx2", 3)
    assert variables["GRAPHC_MARCH"] == "haswell"
    assert variables["ATEN_CPU_CAPABILITY"] == "avx2"
    assert variables["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "GRAPHC_MARCH" not in machine.worker_environment("native", 3)


def test_data_is_the_same_for_every_peer_and_fresh_for_every_seed() -> None:
    (case, *_) = cases.general_cases(batch=1)
    one, again, other = (random_arrays(case, seed)["x"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("what", ["train", "infer"])
def test_a_worker_runs_one_repetition(what: str) -> None:
    case = cases.Case("vgg16", "tiny", "vgg16", what, {"batch": 1, **TINY_NET})
    with tiny_worker("graphc") as worker:
        assert set(worker.prepare(case)) == {"build", "first"}
        assert worker.run(1) > 0
        assert worker.memory()["peak"] > 0
        assert worker.facts()["kernel_seconds"]


def test_all_peers_compute_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    options = cases.convolution(1, 4, 6, (8, 8), (3, 3), stride=2, padding=1, bias_relu=True)
    plan = measure.Plan(repeat=1, warmup=1, limit=60.0, say=lambda line: None)
    with measure.Team(plan) as team:
        for what in cases.PASSES:
            case = cases.Case("layers", "tiny", "conv", what, options)
            record = measure.measure(case, PEERS_OF_LAYERS, team)
            assert not record["skipped"]
            assert set(record["error"]) == set(PEERS_OF_LAYERS)
            assert max(record["error"].values()) < 1e-6
    assert "Error" not in capfd.readouterr().err


def test_a_peer_that_fails_says_why() -> None:
    case = cases.Case("layers", "wrong", "no such kind", "forward", {})
    with tiny_worker("graphc") as worker, pytest.raises(PeerFailed, match="no such kind"):
        worker.prepare(case)
