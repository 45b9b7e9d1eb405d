"""Small kernels that do not depend on each other share a launch, and change nothing by it."""

import re

import numpy as np
import pytest

import graphc as gx
import graphc.schedule.plan as plan_module
from graphc.backends.cuda.emit import Emitted
from graphc.backends.cuda.run import DeviceProgram
from graphc.ir.graph import Assignment, Graph
from graphc.ir.schedule import Schedule
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from graphc.train.network import build_model, classifier, make_optimizer
from graphc.train.step import TrainingStep, training_assignments, training_step
from tests.cuda.programs import SEEDS, check_on_emulator, emulator, generated

NARROW = {"image": 32, "width": 0.125, "head": 32, "classes": 10, "dropout": 0.0}
BATCH = 4


def step_of(precision: str, batch_norm: bool = False, kind: str = "sgd") -> TrainingStep:
    network = classifier(build_model("vgg11", {**NARROW, "batch_norm": batch_norm}), BATCH)
    optimizer = make_optimizer(kind, 0.01, None, None)
    return training_step(network.loss, optimizer, target="cuda-emu", precision=precision, seed=3)


def schedule_of(outputs: list[gx.Node], assignments: list[Assignment] | None = None) -> Schedule:
    return make_schedule(run_passes(Graph(tuple(outputs), tuple(assignments or ()))))


@pytest.mark.parametrize(
    ("precision", "batch_norm", "kind"),
    [("fp32", False, "sgd"), ("fp16", False, "sgd"), ("fp32", False, "adam"),
     pytest.param("bf16", True, "sgd", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_training_step_is_the_same_to_the_bit(
    precision: str, batch_norm: bool, kind: str,
    seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    together = step_of(precision, batch_norm, kind)
    monkeypatch.setattr(plan_module, "side_by_side", lambda graph, kernels: tuple(kernels))
    alone = step_of(precision, batch_norm, kind)
    assert len(together.kernels) < len(alone.kernels) - 4
    images = seeded.standard_normal((BATCH, 3, 32, 32), np.float32)
    labels = seeded.integers(0, 10, BATCH)
    for seed in SEEDS:
        emulator().seed = seed
        got, want = together(x=images, y=labels), alone(x=images, y=labels)
        assert got[0].tobytes() == want[0].tobytes()
    for arrays, others in (
        (together.parameters, alone.parameters),
        (together.states, alone.states),
    ):
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name], err_msg=name)


def launches(name: str, precision: str, batch: int) -> Emitted:
    network = classifier(build_model(name, {}), batch)
    optimizer = make_optimizer("sgd", None, None, None)
    assignments = training_assignments(network.loss, optimizer, (), precision)
    return generated([network.loss], assignments, precision=precision)


def test_the_small_updates_of_vgg16_are_one_launch() -> None:
    emitted = launches("vgg16", "bf16", 64)
    names = [launch.kernel for launch in emitted.launches]
    assert len(names) <= 88
    (updates,) = [name for name in names if name.endswith("_more")]
    text = next(f.text for f in emitted.files if f.name == f"{updates}.cu")
    parts = re.findall(r"GC_DEVICE void (\w+)_part\(", text)
    assert parts[0] == "loss_forward_2" and "step_update" in parts
    assert sum(part.endswith("_bias_update") for part in parts) == 15


def test_independent_maps_and_sums_share_a_launch(seeded: np.random.Generator) -> None:
    a, b = gx.input("a", (40, 30)), gx.input("b", (700,))
    c = gx.input("c", (16, 64))
    outputs = [gx.exp(a), gx.tanh(b) * 2.0, gx.sum(c, 1), a + 1.0]
    (plan,) = schedule_of(outputs).kernels
    assert plan.strategy == "side by side" and len(plan.parts) == 3  # two of them read `a`
    feeds = {n.label: seeded.normal(size=n.shape).astype("float32") for n in (a, b, c)}
    program = check_on_emulator(outputs, feeds)
    assert isinstance(program, DeviceProgram) and len(program._launches) == 1


def test_what_reads_a_value_runs_after_it(seeded: np.random.Generator) -> None:
    a = gx.input("a", (40, 30))
    first = gx.sum(a, 1)
    second = gx.sum(gx.exp(first))
    other = gx.sum(a, 0)
    outputs = [first, second, other, gx.sum(gx.exp(other)) * second]
    kernels = schedule_of(outputs).kernels
    made: set[gx.Node] = set()
    for plan in kernels:
        for part in plan.parts or (plan,):
            needed = {o for n in part.nodes for o in n.inputs if o.kind == "op"} - set(part.nodes)
            assert needed <= made
        made |= set(plan.nodes)
    assert len(kernels) < 4
    check_on_emulator(outputs, {"a": seeded.normal(size=a.shape).astype("float32")})


def test_a_state_is_not_overwritten_beside_who_reads_it() -> None:
    count = gx.state("count", (), 1.0)
    w, v = (gx.parameter(n, (50,), init=gx.init.constant(2.0)) for n in "wv")
    moves = [Assignment(w, w * count), Assignment(v, v + count), Assignment(count, count + 1.0)]
    schedule = schedule_of([], moves)
    writer = next(
        plan for plan in schedule.kernels
        if any(schedule.places[n] == schedule.places[count] for n in plan.stored)
    )  # fmt: skip
    assert not writer.parts and len(schedule.kernels) == 2
    program = gx.compile([count * 1.0], target="cuda-emu", assignments=moves)
    for _ in range(3):
        program()
    np.testing.assert_array_equal(program.parameters["w"], np.full(50, 2.0 * 1 * 2 * 3))
    np.testing.assert_array_equal(program.parameters["v"], np.full(50, 2.0 + 1 + 2 + 3))


def test_arguments_of_one_launch_have_a_limit() -> None:
    parameters = [gx.parameter(f"p{n}", (n + 1,)) for n in range(300)]
    schedule = schedule_of([], [Assignment(p, p * 0.5) for p in parameters])
    assert [len(plan.parts) for plan in schedule.kernels] == [200, 100]


def test_large_kernels_do_not_wait() -> None:
    """Their operands would be kept for them, and they are no cheaper later."""
    x = gx.input("x", (512, 1024))
    large = gx.relu(gx.matmul(gx.exp(x), gx.transpose(gx.tanh(x))))
    outputs = [gx.sum(gx.matmul(large, large), (0, 1)), gx.exp(x) * 2.0]
    names = [plan.name for plan in schedule_of(outputs).kernels]
    assert names[0].endswith("more"), names
