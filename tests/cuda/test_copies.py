"""16-bit copies of parameters are made by the kernel of the update, and never out of date."""

import numpy as np
import pytest

import graphc as gx
import graphc.compiler as compiler
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.run import DeviceProgram
from graphc.ir.graph import Graph
from graphc.ir.grid import GridProduct
from graphc.ir.types import DType
from graphc.lower.grid import lower_to_grid
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from graphc.train.step import TrainingStep, training_assignments
from tests.cuda.programs import SEEDS, emulator

Feeds = dict[str, np.ndarray]
KINDS = {"bf16": DType.bfloat16, "fp16": DType.float16}


def net(batch: int = 6) -> gx.Node:
    """A convolution with an input gradient, and two dense layers."""
    x, y = gx.input("x", (batch, 3, 8, 8)), gx.input("y", (batch,), "int64")
    first, second = gx.parameter("first", (8, 3, 3, 3)), gx.parameter("second", (16, 8, 3, 3))
    v, w = gx.parameter("v", (32, 16 * 64)), gx.parameter("w", (10, 32))
    hidden = gx.relu(gx.conv2d(gx.relu(gx.conv2d(x, first, padding=1)), second, padding=1))
    return gx.cross_entropy(gx.dense(gx.relu(gx.dense(gx.flatten(hidden), v)), w), y)


@pytest.fixture
def feeds(seeded: np.random.Generator) -> Feeds:
    return {"x": seeded.normal(size=(6, 3, 8, 8)).astype("float32"),
            "y": seeded.integers(0, 10, 6)}  # fmt: skip


def compiled(precision: str = "bf16", **settings: object) -> TrainingStep:
    optimizer = gx.SGD(0.01, momentum=0.9)
    return gx.training_step(net(), optimizer, target="cuda-emu", precision=precision, **settings)


def program(step: TrainingStep) -> DeviceProgram:
    assert isinstance(step.program, DeviceProgram)
    return step.program


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    launch = Emulator.launch

    def noted(self: Emulator, kernel: object, *rest: object, **more: object) -> None:
        if self._recording is None:
            names.append(kernel.name)  # type: ignore[attr-defined]
        launch(self, kernel, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Emulator, "launch", noted)
    return names


@pytest.mark.parametrize("precision", KINDS)
def test_a_step_is_the_same_to_the_bit_in_every_order(
    precision: str, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With copies, and with every rounding at the start of the step."""
    kept = compiled(precision)
    passes = run_passes
    monkeypatch.setattr(compiler, "run_passes", lambda g, n, copies: passes(g, n, copies=False))
    plain = compiled(precision)
    assert program(kept)._copies and not program(plain)._copies
    assert list(kept.states) == list(plain.states)
    for seed in SEEDS:
        emulator().seed = seed
        got, want = kept(**feeds)[0], plain(**feeds)[0]
        assert got.tobytes() == want.tobytes()
    for name, array in kept.parameters.items():
        np.testing.assert_array_equal(array, plain.parameters[name], err_msg=name)


def test_only_the_first_step_launches_the_copies(feeds: Feeds, launched: list[str]) -> None:
    step = compiled()
    rounded = [name for name in ("first", "second", "v", "w")]
    step(**feeds)
    assert [n for n in launched if n.endswith("_copy")] == [f"{n}_bfloat16_copy" for n in rounded]
    launched.clear()
    step(**feeds)
    step.program.profile(**feeds)
    assert launched and not any("copy" in name for name in launched)
    assert not any("bfloat16" in name and name != "x_bfloat16_forward" for name in step.kernels)
    source = step.kernels["v_update"].source
    assert "gc_bf16 *__restrict__ v_bfloat16" in source and "gc_to_bf16" in source


def test_a_parameter_that_is_written_is_rounded_again(feeds: Feeds, launched: list[str]) -> None:
    step = compiled()
    step(**feeds)
    held = {name: np.asarray(a) for name, a in (step.parameters | step.states).items()}
    step(**feeds)
    for name, array in (step.parameters | step.states).items():
        array[...] = held[name]
    launched.clear()
    again = step(**feeds)[0]
    assert sum(name.endswith("_copy") for name in launched) == 4
    other = compiled(parameters={n: held[n] for n in step.parameters})
    for name, array in other.states.items():
        array[...] = held[name]
    assert other(**feeds)[0].tobytes() == again.tobytes()


def test_programs_that_share_parameters_see_each_others_updates(feeds: Feeds) -> None:
    step = compiled()
    x = gx.input("x", (6, 16 * 64))
    v = gx.parameter("v", (32, 16 * 64))
    image = feeds["x"].reshape(6, -1)[:, :1].repeat(16 * 64, 1)
    look = gx.compile(
        [gx.dense(x, v)], target="cuda-emu", precision="bf16", parameters=step.parameters
    )
    for _ in range(2):
        step(**feeds)
        rounded = np.asarray(step.parameters["v"]).astype(DType.bfloat16.numpy).astype("float64")
        want = image.astype(DType.bfloat16.numpy).astype("float64") @ rounded.T
        np.testing.assert_allclose(look(x=image)[0], want, rtol=1e-2, atol=1e-2)
    second = compiled(parameters=step.parameters)
    twice = [run(**feeds)[0] for run in (step, second, step)]
    assert twice[0] > twice[1] > twice[2]


def test_one_copy_serves_both_products_with_whole_vectors() -> None:
    """Channels lie together: along the depth of the forward product, along N of the gradient's."""
    x, y = gx.input("x", (4, 64, 16, 16)), gx.input("y", (4,), "int64")
    first, second = (gx.parameter(n, (64, 64, 3, 3)) for n in ("first", "second"))
    hidden = gx.relu(gx.conv2d(gx.relu(gx.conv2d(x, first, padding=1)), second, padding=1))
    loss = gx.cross_entropy(gx.mean(hidden, (2, 3)), y)
    assignments = training_assignments(loss, gx.SGD(0.1, momentum=0.9), (), "bf16")
    graph = run_passes(Graph((loss,), tuple(assignments)), DType.bfloat16, copies=True)
    schedule = make_schedule(graph)
    assert not schedule.moves
    found = {
        routine.name: [(side.along, side.width) for side in (body.rows, body.columns)]
        for routine in lower_to_grid(schedule)
        if isinstance(body := routine.body, GridProduct)
    }
    named = {name: sides for name, sides in found.items() if "update" not in name}
    widths = {width for sides in named.values() for _, width in sides}
    assert len(named) == 3 and widths == {8}, named
    assert {sides[1][0] for sides in named.values()} == {"depth", "outer"}
