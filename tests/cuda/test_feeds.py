"""Batches that are copied ahead, and arrays that are on the device already."""

import ctypes
import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.driver import OutOfMemory
from graphc.backends.cuda.emulator import POISON, Emulator
from graphc.backends.cuda.fault import KernelFault
from graphc.backends.cuda.foreign import DLTensor, foreign_array
from graphc.backends.cuda.run import DeviceProgram
from graphc.compiler import compile_graph
from graphc.errors import CompilerBug, UserError
from graphc.ops import elementwise, leaves, reductions
from tests.cuda.device import download
from tests.cuda.fake_pycuda import FakeCuda
from tests.cuda.programs import emulator
from tests.cuda.test_driver import scale
from tests.cuda.test_gpu import fake
from tests.cuda.test_programs import small_step

__all__ = ["fake"]
Batch = dict[str, Any]


def batches(generator: np.random.Generator, count: int) -> list[Batch]:
    return [
        {
            "x": generator.normal(size=(8, 6)).astype("float32"),
            "y": generator.integers(0, 5, size=8),
        }
        for _ in range(count)
    ]


def moved(array: np.ndarray) -> DeviceArray:
    held = DeviceArray(emulator(), array.shape, array.dtype)
    held.write(array)
    return held


@pytest.mark.parametrize("target", ["c", "cuda-emu"])
def test_a_stream_gives_what_calls_give(target: str, seeded: np.random.Generator) -> None:
    feeds = batches(seeded, 7)
    stream, calls = small_step(target), small_step(target)
    for got, feed in zip(stream.stream(iter(feeds)), feeds, strict=True):
        for a, b in zip(got, calls(**feed), strict=True):
            assert a.tobytes() == b.tobytes()
    for name, array in stream.parameters.items():
        np.testing.assert_array_equal(array, calls.parameters[name])


def test_the_next_batch_is_copied_while_one_is_computed(
    fake: FakeCuda, seeded: np.random.Generator
) -> None:
    step = small_step("cuda")
    for _ in step.stream(iter(batches(seeded, 3))):
        pass
    begun = [call for call in fake.calls if call in ("ahead", "await", "replay")]
    copies = ["ahead", "ahead"]
    assert begun == [
        *copies, "await", "replay", *copies, "await", "replay", *copies, "await", "replay"
    ]  # fmt: skip


def test_a_batch_may_be_overwritten_once_the_next_is_asked_for(
    seeded: np.random.Generator,
) -> None:
    feeds = batches(seeded, 5)
    want = [small[0] for small in small_step("cuda-emu").stream(iter(feeds))]

    def reused() -> Iterator[Batch]:
        x, y = np.empty((8, 6), np.float32), np.empty(8, np.int64)
        for feed in feeds:
            x[...], y[...] = feed["x"], feed["y"]
            yield {"x": x, "y": y}

    got = [small[0] for small in small_step("cuda-emu").stream(reused())]
    assert [a.tobytes() for a in got] == [b.tobytes() for b in want]


@pytest.mark.parametrize("target", ["c", "cuda-emu"])
def test_a_bad_batch_is_told_in_its_turn(target: str, seeded: np.random.Generator) -> None:
    feeds = batches(seeded, 3)
    feeds[1]["y"] = feeds[1]["y"] + 5
    step = small_step(target)
    stream = step.stream(iter(feeds))
    assert next(stream)[0] > 0
    with pytest.raises(UserError, match=r"expected labels 0\.\.4"):
        next(stream)
    assert next(stream, None) is None
    assert step(**feeds[0])[0] > 0  # the step is as good as before


def test_a_call_between_the_batches_of_a_stream(seeded: np.random.Generator) -> None:
    feeds = batches(seeded, 4)
    mixed, plain = small_step("cuda-emu"), small_step("cuda-emu")
    stream = mixed.stream(iter(feeds[:2]))
    got = [next(stream), mixed(**feeds[2]), next(stream), mixed(**feeds[3])]
    want = [plain(**feeds[n]) for n in (0, 2, 1, 3)]
    assert [a[0].tobytes() for a in got] == [b[0].tobytes() for b in want]


def test_copies_ahead_are_as_late_as_they_may_be() -> None:
    device = Emulator(seed=3)
    pinned = device.pinned(160).view(np.float32)
    memory = device.allocate(160)
    pinned[...] = 1
    device.copy_ahead(memory, pinned)
    with pytest.raises(KernelFault, match="nothing has written"):
        scale(device, memory, 2.0)
    pinned[...] = 5  # too early: what is copied is what is there when it is
    device.await_copies()
    scale(device, memory, 2.0)
    np.testing.assert_array_equal(download(device, memory, np.float32, [40]), np.full(40, 10.0))
    device.copy_ahead(memory, pinned)
    raw = np.empty(160, np.uint8)
    device.copy_from(memory, raw)
    assert (raw == POISON).all()
    with pytest.raises(CompilerBug, match="`pinned` gave"):
        device.copy_ahead(memory, np.zeros(40, np.float32))


class Interface:
    """An array of another library: numba's protocol."""

    def __init__(self, held: DeviceArray, **changes: Any) -> None:
        self.held = held
        self.__cuda_array_interface__ = {
            "shape": held.shape, "typestr": held.dtype.str, "data": (held.memory.address, False),
            "strides": None, "version": 3,
        } | changes  # fmt: skip


class Packed:
    """An array of another library: DLPack's protocol."""

    def __init__(self, held: DeviceArray, kind: tuple[int, int], device: int = 2) -> None:
        self.held, self.device = held, device
        self.shape = (ctypes.c_int64 * held.ndim)(*held.shape)
        self.tensor = DLTensor()
        self.tensor.data, self.tensor.rank = held.memory.address, held.ndim
        self.tensor.device.kind = device
        self.tensor.dtype.code, self.tensor.dtype.bits = kind
        self.tensor.shape = self.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p,
        )  # fmt: skip
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


@pytest.mark.parametrize("wrap", ["own", "interface", "dlpack"])
def test_arrays_on_the_device_are_read_where_they_are(
    wrap: str, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = batches(seeded, 3)
    want = [small_step("cuda-emu")(**feed) for feed in feeds[:1]]
    step = small_step("cuda-emu")
    held = [{name: moved(array) for name, array in feed.items()} for feed in feeds]
    wrapped: list[Batch] = held
    if wrap == "interface":
        wrapped = [{n: Interface(a) for n, a in one.items()} for one in held]
    elif wrap == "dlpack":
        kinds = {"x": (2, 32), "y": (0, 64)}
        wrapped = [{n: Packed(a, kinds[n]) for n, a in one.items()} for one in held]
    copied: list[int] = []
    write = DeviceArray.write
    monkeypatch.setattr(
        DeviceArray, "write", lambda self, array: (copied.append(1), write(self, array))[1]
    )
    first = step(**wrapped[0])
    assert [a.tobytes() for a in first] == [b.tobytes() for b in want[0]]
    list(step.stream(iter(wrapped)))
    assert not copied
    program = step.program
    assert isinstance(program, DeviceProgram)
    assert len(program._graphs) == 3


def test_graphs_of_many_arrays_are_forgotten(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (64,))
    program = compile_graph([elementwise.exp(x)], target="cuda-emu")
    assert isinstance(program, DeviceProgram)
    known = emulator()._graphs
    before = len(known)
    held = [moved(seeded.normal(size=64).astype("float32")) for _ in range(9)]
    for array in held:
        np.testing.assert_allclose(program(x=array)[0], np.exp(np.asarray(array)), rtol=1e-6)
    assert len(known) - before == 4
    del program
    gc.collect()
    assert len(known) == before


def test_an_array_at_an_odd_place_is_copied(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (4096,))
    program = compile_graph([elementwise.exp(x), reductions.sum(x)], target="cuda-emu")
    whole = seeded.normal(size=4097).astype("float32")
    held = moved(whole)
    data = (held.memory.address + 4, False)
    part = Interface(held, shape=(4096,), data=data)
    np.testing.assert_allclose(program(x=part)[0], np.exp(whole[1:]), rtol=1e-6)


def test_arrays_that_do_not_fit_are_refused() -> None:
    program = compile_graph([leaves.input("x", (4, 8)) * 2.0], target="cuda-emu")
    flat, wide = moved(np.zeros((8, 4), np.float32)), moved(np.zeros((4, 8), np.float64))
    square = moved(np.zeros((4, 8), np.float32))
    turned = Interface(square, strides=(4, 16))
    for array, fault in ((flat, "another shape"), (wide, "element type"), (turned, "one piece")):
        with pytest.raises(UserError, match=fault):
            program(x=array)
    labels = small_step("cuda-emu")
    with pytest.raises(UserError, match=r"expected labels 0\.\.4"):
        labels(x=moved(np.zeros((8, 6), np.float32)), y=moved(np.full(8, 5)))


def test_what_an_array_says_of_itself() -> None:
    held = moved(np.zeros((2, 3), ml_dtypes.bfloat16))
    found = foreign_array(Packed(held, (4, 16)))
    assert found is not None and found.dtype == ml_dtypes.bfloat16 and found.contiguous
    assert found.memory == held.memory
    assert foreign_array(Packed(held, (4, 16), device=1)) is None
    assert foreign_array(np.zeros(3)) is None
    assert foreign_array([1, 2]) is None
    strided = foreign_array(Interface(moved(np.zeros((2, 3), np.float32)), strides=(24, 4)))
    assert strided is not None and not strided.contiguous


def test_a_program_that_does_not_fit_says_what_it_needs(fake: FakeCuda) -> None:
    x = leaves.input("x", (1 << 20,))
    fake.total = 6 << 20
    with pytest.raises(OutOfMemory) as error:
        compile_graph([elementwise.exp(x)], target="cuda")
    assert (error.value.needed, error.value.free) == (8 << 20, 6 << 20)
    assert "needed: 8 MiB\n  free:   6 MiB of 6" in str(error.value)
    assert not fake.memory
    fake.total = 9 << 20
    held = SimpleNamespace(program=compile_graph([elementwise.exp(x)], target="cuda"))
    held.loop = held  # garbage that only a collection finds
    del held
    assert compile_graph([elementwise.sqrt(x)], target="cuda").machine == "made-up GPU"
