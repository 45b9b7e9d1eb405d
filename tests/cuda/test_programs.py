"""Programs on a device: the same surface as on a processor, arrays that stay where they are."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.driver import DeviceMemory
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.run import DeviceProgram
from graphc.compiler import compile_graph
from graphc.errors import ToolchainError, UserError
from graphc.ir.graph import Assignment, Node
from graphc.ops import elementwise, leaves, linear, losses, reductions
from graphc.train.optimizers import SGD
from graphc.train.step import training_step
from tests.cuda.programs import emulator


@pytest.fixture
def memory() -> Iterator[dict[int, DeviceMemory]]:
    """What is allocated on the emulator during a test; all of it has to be freed."""
    gc.collect()
    device = emulator()
    before = set(device._allocations)
    yield device._allocations  # type: ignore[misc]
    gc.collect()
    assert set(device._allocations) <= before


def small_step(target: str, **settings: object):
    x, y = leaves.input("x", (8, 6)), leaves.input("y", (8,), "int64")
    w, b = leaves.parameter("w", (5, 6)), leaves.parameter("b", (5,))
    logits = linear.dense(x, w, b)
    loss = losses.cross_entropy(logits, y)
    optimizer = SGD(0.1, momentum=0.9)
    return training_step(loss, optimizer, metrics=[logits], target=target, **settings)


@pytest.fixture
def feeds(seeded: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "x": seeded.normal(size=(8, 6)).astype("float32"),
        "y": seeded.integers(0, 5, size=8),
    }


def test_a_step_trains_as_it_does_on_a_processor(feeds: dict[str, np.ndarray]) -> None:
    ours, theirs = small_step("cuda-emu"), small_step("c")
    for _ in range(5):
        got, want = ours(**feeds), theirs(**feeds)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    together = {"loss_forward_2", "b_update", "w_update"}  # on a device in one launch
    assert {*ours.kernels} - {"loss_forward_2_and_2_more"} == {*theirs.kernels} - together
    assert list(ours.parameters) == list(theirs.parameters)
    for name, array in ours.parameters.items():
        assert isinstance(array, DeviceArray)
        np.testing.assert_allclose(array, theirs.parameters[name], rtol=1e-5, atol=1e-6)
    assert ours.program.machine == "cuda-emu"
    source = ours.kernels["dense_forward"].source
    assert (ours.program.folder / "dense_forward.cu").read_text() == source


def test_kernels_are_captured_once_and_replayed(
    feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, captured = small_step("cuda-emu"), []
    begin = Emulator.begin_capture
    monkeypatch.setattr(
        Emulator, "begin_capture", lambda self: (captured.append(1), begin(self))[1]
    )
    losses_ = [float(step(**feeds)[0]) for _ in range(3)]
    assert len(captured) == 1
    assert losses_[0] > losses_[1] > losses_[2]


def test_a_profile_is_a_run(feeds: dict[str, np.ndarray]) -> None:
    step, other = small_step("cuda-emu"), small_step("cuda-emu")
    seconds = step.program.profile(**feeds)
    other(**feeds)
    assert list(seconds) == list(step.kernels)
    assert all(s > 0 for s in seconds.values())
    np.testing.assert_array_equal(step.parameters["w"], other.parameters["w"])


def test_programs_share_arrays_of_one_device(feeds: dict[str, np.ndarray]) -> None:
    step = small_step("cuda-emu")
    w = leaves.parameter("w", (5, 6))
    twice = compile_graph([w * 2.0], target="cuda-emu", parameters=step.parameters)
    for _ in range(2):
        step(**feeds)
        np.testing.assert_array_equal(twice()[0], 2 * np.asarray(step.parameters["w"]))
    assert twice.parameters["w"] is step.parameters["w"]


def test_numpy_arrays_are_where_a_device_starts(feeds: dict[str, np.ndarray]) -> None:
    start = np.ones((5, 6), np.float32)
    step = small_step("cuda-emu", parameters={"w": start})
    np.testing.assert_array_equal(step.parameters["w"], start)
    step(**feeds)
    assert (np.asarray(step.parameters["w"]) != 1).any()
    assert (start == 1).all()


def test_the_learning_rate_can_be_set(feeds: dict[str, np.ndarray]) -> None:
    step = small_step("cuda-emu")
    step.learning_rate = 0.0
    before = np.asarray(step.parameters["w"])
    step(**feeds)
    assert step.learning_rate == 0
    np.testing.assert_array_equal(step.parameters["w"], before)


def test_an_array_on_a_device_reads_and_writes_like_numpys() -> None:
    array = DeviceArray(emulator(), (2, 3), np.dtype(np.float32))
    array[...] = 4
    array[1, :2] = [5, 6]
    np.testing.assert_array_equal(array, [[4, 4, 4], [5, 6, 4]])
    assert (len(array), array.size, array.ndim, array.nbytes) == (2, 6, 2, 24)
    assert array[1, 0] == 5
    assert np.asarray(array, dtype=np.float64).dtype == np.float64
    assert repr(array) == "DeviceArray(float32[2, 3] on cuda-emu)"
    with pytest.raises(ValueError, match="copy is the only way"):
        np.asarray(array, copy=False)


def test_memory_is_freed_with_the_program(
    memory: dict[int, DeviceMemory], feeds: dict[str, np.ndarray]
) -> None:
    before = len(memory)
    step = small_step("cuda-emu")
    step(**feeds)
    kept = step.parameters["w"]
    assert len(memory) > before + 5
    del step
    gc.collect()
    assert len(memory) == before + 1
    assert kept[0, 0] is not None


def swapped() -> tuple[list[Node], list[Assignment]]:
    a, b = (leaves.state(name, (4,), start) for name, start in (("a", 1.0), ("b", 2.0)))
    return [a + b * 10.0], [Assignment(a, b), Assignment(b, a)]


def test_states_that_take_each_others_values() -> None:
    outputs, assignments = swapped()
    program = compile_graph(outputs, assignments=assignments, target="cuda-emu")
    for first in (21, 12, 21):
        np.testing.assert_array_equal(program()[0], np.full(4, first))


def test_an_output_is_the_value_before_the_assignment() -> None:
    a = leaves.state("a", (4,), 1.0)
    program = compile_graph([a], assignments=[Assignment(a, a * 2.0)], target="cuda-emu")
    for want in (1, 2, 4):
        np.testing.assert_array_equal(program()[0], np.full(4, want))


def test_everything_that_is_read_was_written(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (30, 40))
    program = compile_graph([reductions.sum(elementwise.exp(x), 1)], target="cuda-emu")
    assert isinstance(program, DeviceProgram)
    program(x=seeded.normal(size=x.shape).astype("float32"))
    for array in program._arrays:
        assert array is None or emulator().first_unwritten(array.memory) is None


def test_feeds_are_checked(feeds: dict[str, np.ndarray]) -> None:
    step = small_step("cuda-emu")
    with pytest.raises(UserError, match="an input is missing"):
        step(x=feeds["x"])
    with pytest.raises(UserError, match="another element type"):
        step(x=feeds["x"].astype("float64"), y=feeds["y"])
    with pytest.raises(UserError, match="holds the label 5"):
        step(x=feeds["x"], y=feeds["y"] * 0 + 5)


def test_arrays_of_another_device_or_shape_are_refused() -> None:
    w = leaves.parameter("w", (3,))
    other = DeviceArray(Emulator(1), (3,), np.dtype(np.float32))
    longer = DeviceArray(emulator(), (4,), np.dtype(np.float32))
    for array in (other, longer):
        with pytest.raises(UserError, match="does not fit"):
            compile_graph([w * 2.0], target="cuda-emu", parameters={"w": array})
    with pytest.raises(UserError, match="does not fit"):
        compile_graph([w * 2.0], parameters={"w": longer})


def test_a_device_is_opened_once() -> None:
    assert open_device("cuda-emu") is open_device("cuda-emu")


def test_what_a_gpu_needs_is_named() -> None:
    x = leaves.input("x", (3,))
    with pytest.raises(ToolchainError, match="the target 'cuda' needs"):
        compile_graph([x * 2.0], target="cuda")
