"""Tuning of whole schedules: what is tried, what is right, what is cached; times are made up."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphc as gx
from graphc.backends.c.cache import build_root
from graphc.backends.c.mapping import BLOCKS
from graphc.backends.c.toolchain import find_toolchain
from graphc.evaluate import evaluate
from graphc.ir.blocks import ContractionBlocks, TileBlocks
from graphc.ir.graph import Assignment, Graph, Node
from graphc.ir.schedule import Schedule
from graphc.ir.types import DType
from graphc.passes.pipeline import run_passes
from graphc.schedule.memory import ALIGNMENT
from graphc.schedule.plan import make_schedule
from graphc.tune.bench import Bench, random_array
from graphc.tune.choices import Choices, Chosen
from graphc.tune.kernel import alone, signature
from graphc.tune.search import Trial
from graphc.tune.tune import Report, tune_schedule
from graphc.tune.variants import ROUNDS, Candidate, Space
from tests.compiled import distance

TOOLCHAIN = find_toolchain()
BLOCK = BLOCKS[TOOLCHAIN.simd]
LIMIT = {"float32": 5e-6, "float64": 2.5e-13, "bfloat16": 4e-3}


def scheduled(*outputs: Node, exact: bool = False, assigned: Sequence[Assignment] = ()) -> Schedule:
    graph = run_passes(Graph(outputs, tuple(assigned)))
    return make_schedule(graph, BLOCK, exact=exact)


def layers(dtype: str = "float32") -> Schedule:
    """Three convolutions, two of which are one kernel by signature: the last has no blocks."""
    hidden = gx.exp(gx.tanh(gx.input("x", (2, 32, 12, 12), dtype)))
    for name in ("u", "v", "w"):
        weight = gx.parameter(name, (32, 32, 3, 3), dtype=dtype)
        hidden = gx.exp(gx.tanh(gx.conv2d(hidden, weight, padding=1)))
    return scheduled(hidden)


class Times:
    """Made-up seconds by the text of a candidate; what was prepared is remembered."""

    batch = 2

    def __init__(self, seconds: Callable[[str], float]) -> None:
        self.seconds, self.texts, self.kernels = seconds, [], 0
        self.now = 0.0

    def __call__(self, single: Schedule, threads: int) -> "Times":
        self.kernels += 1
        return self

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        self.texts += [c.text for c in candidates]

    def run(self, candidate: Candidate) -> float:
        self.now += self.seconds(candidate.text)
        return self.seconds(candidate.text)


class Told:
    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.reports: list[Report] = []

    def tried(self, trial: Trial) -> None:
        self.trials.append(trial)

    def tuned(self, report: Report) -> None:
        self.reports.append(report)


def tuned(
    schedule: Schedule, times: Times, *, seconds: float = 1e6, threads: int = 2,
    exact: bool = False,
) -> tuple[Schedule, Report]:  # fmt: skip
    told = Told()
    done = tune_schedule(
        schedule, BLOCK, TOOLCHAIN, seconds=seconds, threads=threads, exact=exact, listener=told,
        clock=lambda: times.now, make_timer=times,
    )  # fmt: skip
    return done, told.reports[0]


def no_search(text: str) -> float:
    raise AssertionError(f"{text} is run although nothing is to be searched")


def prefer(*words: str) -> Callable[[str], float]:
    """Candidates are faster the more of the words are in their text; a comma marks its end."""
    return lambda text: 1.0 - 0.2 * sum(word in f"{text}," for word in words)


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "builds"
    monkeypatch.setenv("GRAPHC_BUILD_DIR", str(folder))
    return folder


def input_of(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Node:
    return gx.input(name, shape, dtype)


def kernels_under_test() -> dict[str, Node]:
    """One product each, in every form: along positions, along taps, phases, batches, epilogues."""
    x, w = input_of("x", (2, 32, 13, 11)), input_of("w", (32, 32, 3, 3))
    g = input_of("g", (2, 32, 13, 11))
    convolved = gx.conv2d(x, w, padding=1)
    dx, dw = gx.gradients(gx.sum(convolved * g), [x, w])
    deep = gx.conv2d(
        input_of("x", (5, 48, 7, 6), "float64"), input_of("w", (16, 48, 5, 5), "float64")
    )
    line = gx.conv1d(input_of("x", (3, 32, 50)), input_of("w", (16, 32, 3)), padding=1)
    strided_x, strided_w = input_of("x", (2, 16, 12, 12)), input_of("w", (32, 16, 3, 3))
    strided = gx.conv2d(strided_x, strided_w, stride=2, padding=1)
    (strided_dx,) = gx.gradients(gx.sum(strided * input_of("g", strided.shape)), [strided_x])
    return {
        "positions": gx.relu(convolved + input_of("b", (32, 1, 1))), "dinput": dx, "dweight": dw,
        "five taps": deep, "line": line, "strided": strided, "phases": strided_dx,
        "dense": gx.dense(input_of("x", (40, 700)), input_of("w", (90, 700))),
        "pairs": gx.conv2d(
            input_of("x", (2, 29, 15, 15), "bfloat16"), input_of("w", (21, 29, 3, 3), "bfloat16"),
            stride=2,
        ),
        "pair dense": gx.matmul(
            input_of("x", (40, 695), "bfloat16"), input_of("w", (695, 90), "bfloat16")
        ),
        "batched": gx.matmul(input_of("x", (3, 20, 70)), input_of("w", (3, 70, 33))),
    }  # fmt: skip


KERNELS = kernels_under_test()


def all_candidates(space: Space) -> list[Candidate]:
    """Everything that a search could try within two steps from the default."""
    found = {space.default.source: space.default}
    starts = [space.default, *space.proposals(space.default, 0)]
    for start in starts:
        found.setdefault(start.source, start)
        for number in range(1, len(ROUNDS)):
            for candidate in space.proposals(start, number):
                found.setdefault(candidate.source, candidate)
    return list(found.values())


LONG = ("dinput", "line", "five taps")  # alike in structure to others


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in KERNELS]
)
def test_every_variant_computes_the_same(name: str, seeded: np.random.Generator) -> None:
    """Within the bounds on errors; bit by bit for any number of threads, and where arithmetic is
    said to be the same.
    """
    out = KERNELS[name]
    schedule = scheduled(out)
    (plan,) = [plan for plan in schedule.kernels if plan.strategy != "nest"]
    space = Space(alone(plan, schedule), BLOCK, exact=False)
    candidates = all_candidates(space)
    assert len(candidates) > 3
    leaves = {n.label: n for n in Graph((out,)).nodes if n.kind == "input"}
    feeds = {
        label: (seeded.normal(size=node.shape) / 8).astype(node.dtype.numpy)
        for label, node in leaves.items()
    }
    labels = [buffer.node.label for buffer in space.single.buffers]
    want = evaluate([out], feeds, float_dtype="float64")[0]
    bits: dict[str, bytes] = {}
    for threads in (1, 2, 3):
        bench = Bench(space.single, threads)
        bench.prepare(candidates)
        for candidate in candidates:
            bench.run(candidate)
            for number, label in enumerate(labels):
                fed = feeds[label].ravel() if label in feeds else np.nan
                bench.array(number)[:] = fed
            bench.run(candidate)
            (result,) = [n for n, label in enumerate(labels) if label not in feeds]
            got = bench.array(result)
            limit = max(space.error(candidate) or 0.0, LIMIT[out.dtype.value])
            assert distance(got, want.ravel()) < limit, candidate.text
            assert bits.setdefault(candidate.arithmetic, got.tobytes()) == got.tobytes(), (
                candidate.text
            )


def test_arrays_lie_as_the_arena_s_do() -> None:
    """Kernels store whole lines where a program's arena is, and stop the process elsewhere."""
    for buffer in layers().buffers:
        assert random_array(buffer).ctypes.data % ALIGNMENT == 0


def test_the_fastest_variant_is_used_and_says_why(builds: Path) -> None:
    schedule = layers()
    done, report = tuned(schedule, Times(prefer("F(2,3) x F(2,3)")))
    tiles = [plan for plan in done.kernels if plan.strategy == "tiles"]
    assert len(tiles) == 3
    for plan in tiles:
        assert [a.outputs for a in plan.algorithms] == [2, 2]
        assert "; tuned: F(2,3) x F(2,3)" in plan.reason
        assert "800 ms against 1e+03 ms" in plan.reason
        assert "relative error below" in plan.reason
    assert report.totals[1] < report.totals[0]
    assert len(done.kernels) == len(schedule.kernels)


def test_equal_kernels_are_tuned_once_and_the_dearest_first(builds: Path) -> None:
    times = Times(prefer("direct"))
    done, report = tuned(layers(), times)
    assert times.kernels == 2
    assert [len(kernel.names) for kernel in report.kernels] == [2, 1]
    assert report.kernels[0].names == ("convolution_forward", "convolution_forward_2")
    assert {plan.strategy for plan in done.kernels if "convolution" in plan.name} == {"contraction"}


def test_blocks_are_searched_around_the_best_algorithm(builds: Path) -> None:
    times = Times(prefer("F(2,3) x F(4,3)", "x 1,"))
    done, _ = tuned(layers(), times)
    texts = [text for text in times.texts if text.startswith("F(2,3) x F(4,3)")]
    assert len(set(texts)) > 3
    assert all(plan.tile_blocks is not None for plan in done.kernels if plan.strategy == "tiles")


def test_exact_sums_stay_exact(builds: Path) -> None:
    schedule = scheduled(
        gx.conv2d(input_of("x", (2, 32, 12, 12)), input_of("w", (32, 32, 3, 3))), exact=True
    )
    times = Times(prefer("F("))
    done, _ = tuned(schedule, times, exact=True)
    assert times.texts and all(text.startswith("direct") for text in times.texts)
    assert [plan.strategy for plan in done.kernels] == ["contraction"]


def test_variants_beyond_the_limit_on_errors_are_not_tried(
    builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphc.schedule.choose.MAX_ERROR", {DType.float32: 1e-6})
    times = Times(prefer("F(4,3) x F(4,3)"))
    tuned(layers(), times)
    assert any(text.startswith("F(2,3) x F(2,3)") for text in times.texts)
    assert not any(text.startswith("F(4,3) x F(4,3)") for text in times.texts)


def test_a_cached_choice_needs_no_search(builds: Path) -> None:
    schedule = layers()
    done, _ = tuned(schedule, Times(prefer("F(2,3) x F(2,3)")))
    for seconds in (0.0, 60.0):
        again, report = tuned(layers(), Times(no_search), seconds=seconds)
        assert {kernel.origin for kernel in report.kernels} == {"cached"}
        assert [plan.reason for plan in again.kernels] == [plan.reason for plan in done.kernels]
        assert [plan.tile_blocks for plan in again.kernels] == [p.tile_blocks for p in done.kernels]


def test_another_search_goes_on_where_the_budget_ended(builds: Path) -> None:
    done, report = tuned(layers(), Times(prefer("F(2,3) x F(2,3)")), seconds=12.0)
    assert [kernel.origin for kernel in report.kernels] == ["cut short", "not reached"]
    assert sum("tuned" in plan.reason for plan in done.kernels) == 2
    _, report = tuned(layers(), Times(prefer("none packed")))
    assert [kernel.origin for kernel in report.kernels] == ["cached", "searched"]


def test_no_budget_and_no_choices_change_nothing(builds: Path) -> None:
    schedule = layers()
    done, report = tuned(schedule, Times(no_search), seconds=0.0)
    assert done.kernels == schedule.kernels
    assert {kernel.origin for kernel in report.kernels} == {"not reached"}


def test_an_interrupt_ends_the_search_and_compiles(builds: Path) -> None:
    def interrupted(text: str) -> float:
        if len(times.texts) > 4:
            raise KeyboardInterrupt
        return prefer("F(2,3) x F(2,3)")(text)

    times = Times(interrupted)
    done, report = tuned(layers(), times)
    assert report.interrupted
    assert [kernel.origin for kernel in report.kernels] == ["cut short", "not reached"]
    assert sum("tuned: F(2,3) x F(2,3)" in plan.reason for plan in done.kernels) == 2


def test_other_threads_keep_the_arithmetic(builds: Path) -> None:
    """The first choice decides the roundings; another number of threads moves blocks alone."""
    tuned(layers(), Times(prefer("F(2,3) x F(2,3)")), threads=2)
    without, _ = tuned(layers(), Times(no_search), threads=1, seconds=0.0)
    assert [a.outputs for a in without.kernels[1].algorithms] == [2, 2]
    times = Times(prefer("F(4,3)", "direct", "x 1,"))
    done, _ = tuned(layers(), times, threads=1)
    assert not any("F(4,3)" in text for text in times.texts)
    assert [a.outputs for a in done.kernels[1].algorithms] == [2, 2]
    assert done.kernels[1].tile_blocks != without.kernels[1].tile_blocks


def test_whoever_is_first_decides_the_roundings(builds: Path) -> None:
    """Two processes that search at the same time, for different numbers of threads."""
    folder = build_root()
    mine, theirs = Choices(folder, TOOLCHAIN), Choices(folder, TOOLCHAIN)
    kept = Chosen((2, 2), ContractionBlocks(), None, "F(2,3) x F(2,3)", 0.5, 1.0, 9)
    alike = replace(kept, tile_blocks=TileBlocks(14, 32, 32, 1, 14, 2))
    other = replace(kept, outputs=(4, 4), arithmetic="F(4,3) x F(4,3)")
    assert theirs.add("kernel", 1, kept) == kept
    assert mine.find("kernel", 1) is None, "read before the other process wrote"
    assert mine.add("kernel", 2, other) == kept
    assert mine.add("kernel", 2, alike) == alike
    assert mine.add("kernel", 1, alike) == kept
    again = Choices(folder, TOOLCHAIN)
    assert (again.find("kernel", 1), again.find("kernel", 2)) == (kept, alike)
    elsewhere = Choices(folder, replace(TOOLCHAIN, flags=(*TOOLCHAIN.flags, "-O2")))
    assert elsewhere.find("kernel", 1) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", "number", "checksum"])
def test_a_damaged_file_is_built_again(
    damage: str, builds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(layers(), Times(prefer("F(2,3) x F(2,3)")))
    (path,) = builds.glob("tuning-*.json")
    whole = path.read_text()
    document = json.loads(whole)
    if damage == "number":
        next(iter(document["kernels"].values()))["2"]["outputs"] = [8, 8]
        damage = json.dumps(document)
    if damage == "checksum":
        damage = json.dumps(document | {"sha256": "0" * 64})
    path.write_text(damage)
    with caplog.at_level(logging.WARNING, "graphc"):
        _, report = tuned(layers(), Times(prefer("F(2,3) x F(2,3)")))
    assert "is damaged" in caplog.text
    assert {kernel.origin for kernel in report.kernels} == {"searched"}
    assert json.loads(path.read_text())["kernels"] == json.loads(whole)["kernels"]
    assert [p.name for p in builds.glob("*tuning*")] == [path.name], "a temporary file is left"


def test_signatures_know_no_names(builds: Path) -> None:
    first, second = (
        scheduled(gx.relu(gx.conv2d(input_of(x, (2, 32, 12, 12)), input_of(w, (32, 32, 3, 3)))))
        for x, w in (("x", "w"), ("photo", "kernel"))
    )
    other = scheduled(gx.conv2d(input_of("x", (2, 32, 12, 12)), input_of("w", (32, 32, 3, 3))))
    keys = [
        signature(alone(schedule.kernels[0], schedule), BLOCK, exact)
        for schedule in (first, second, other)
        for exact in (False, True)
    ]
    assert keys[:2] == keys[2:4]
    assert len(set(keys)) == 4


def test_a_compiled_program_is_tuned_only_if_asked(
    builds: Path, seeded: np.random.Generator
) -> None:
    """End to end with real times, whatever they are."""
    x, w = gx.input("x", (2, 32, 12, 12)), gx.parameter("w", (32, 32, 3, 3))
    outputs = [gx.conv2d(gx.tanh(x), w, padding=1)]
    told = Told()
    plain = gx.compile(outputs, name="plain")
    searched = gx.compile(outputs, name="tuned", tune=30.0, threads=2, tuning=told)
    assert told.trials and told.reports[0].kernels[0].origin in ("searched", "cut short")
    cached = gx.compile(outputs, name="tuned", tune=0, threads=2)
    alone_again = gx.compile(outputs, name="plain")
    kernel = list(cached.kernels.values())[-1]
    assert "; tuned: " in kernel.strategy
    assert [k.source for k in cached.kernels.values()] == [
        k.source for k in searched.kernels.values()
    ]
    assert not alone_again.compiled
    assert all("tuned" not in k.strategy for k in alone_again.kernels.values())
    image = seeded.normal(size=x.shape).astype(np.float32)
    feeds = {"x": image, "w": plain.parameters["w"]}
    want = evaluate(outputs, feeds, float_dtype="float64")[0]
    results = [program(x=image)[0] for program in (searched, cached)]
    assert results[0].tobytes() == results[1].tobytes()
    assert distance(results[0], want) < 2e-5


def test_an_untuned_plan_leaves_blocks_to_the_rules() -> None:
    for plan in layers().kernels:
        assert plan.tile_blocks is None and plan.contraction_blocks == ContractionBlocks()
