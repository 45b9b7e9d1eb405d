"""The driver protocol as the emulator keeps it: memory, arguments, captured launches, seeds."""

import numpy as np
import pytest

from graphc.backends.cuda.driver import DeviceMemory, Driver, Kernel
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.emulator_build import build_emulated
from graphc.backends.cuda.fault import KernelFault
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ir.source import SourceFile
from tests.cuda.device import download, upload

SCALE = SourceFile(
    "scale.cu",
    """#include "gc_device.cuh"
extern "C" __global__ void __launch_bounds__(32) scale(float *x, float factor, int n) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] *= factor;
}
extern "C" __global__ void copy(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x]; }
extern "C" __global__ void follow(float *const *x) { x[0][threadIdx.x] = 3.0f; }
""",
)
ONES = np.ones(40, np.float32)


@pytest.fixture
def device() -> Emulator:
    return Emulator(seed=9)


def scale(device: Driver, memory: DeviceMemory, factor: float, n: int = 40) -> None:
    kernel = device.load([SCALE]).kernels["scale"]
    device.launch(kernel, (2, 1, 1), (32, 1, 1), 0, [memory, np.float32(factor), np.int32(n)])


def test_a_launch_changes_memory_in_place(device: Emulator) -> None:
    x = upload(device, ONES)
    scale(device, x, 2.5)
    device.synchronize()
    np.testing.assert_array_equal(download(device, x, np.float32, [40]), 2.5 * ONES)


def test_a_source_may_hold_several_kernels(device: Emulator) -> None:
    kernels = device.load([SCALE]).kernels
    assert list(kernels) == ["scale", "copy", "follow"]
    y = device.allocate(160)
    device.launch(kernels["copy"], (1, 1, 1), (40, 1, 1), 0, [upload(device, ONES), y])
    np.testing.assert_array_equal(download(device, y, np.float32, [40]), ONES)


def test_a_kernel_takes_the_shared_memory_of_its_own_file(device: Emulator) -> None:
    """Six files with 48,000 bytes each: all together are more than a block may have."""
    text = """#include "gc_device.cuh"
extern "C" __global__ void turn_NUMBER(float *x) {
  __shared__ float all[12000];
  all[threadIdx.x] = x[threadIdx.x];
  gc_syncthreads();
  x[threadIdx.x] = all[31 - threadIdx.x] + NUMBER;
}
"""
    numbers = range(1, 7)
    sources = [SourceFile(f"turn_{n}.cu", text.replace("NUMBER", str(n))) for n in numbers]
    kernels = device.load(sources).kernels
    x = upload(device, np.arange(32, dtype=np.float32))
    for n in numbers:
        device.launch(kernels[f"turn_{n}"], (1, 1, 1), (32, 1, 1), 0, [x])
    np.testing.assert_array_equal(download(device, x, np.float32, [32]), np.arange(32) + 21)


def test_captured_launches_run_at_each_replay_and_not_before(device: Emulator) -> None:
    x = upload(device, ONES)
    scale(device, x, 1.0)
    kernel = device.load([SCALE]).kernels["scale"]
    device.begin_capture()
    for factor in (2, 3):
        arguments = [x, np.float32(factor), np.int32(40)]
        device.launch(kernel, (2, 1, 1), (32, 1, 1), 0, arguments)
    graph = device.end_capture()
    np.testing.assert_array_equal(download(device, x, np.float32, [40]), ONES)
    for run in (1, 2):
        device.replay(graph)
        np.testing.assert_array_equal(download(device, x, np.float32, [40]), 6**run * ONES)


def test_nothing_but_launches_is_captured(device: Emulator) -> None:
    x = upload(device, ONES)
    device.begin_capture()
    for call in (
        lambda: device.allocate(4),
        lambda: device.free(x),
        lambda: device.copy_to(x, ONES),
        lambda: device.copy_from(x, ONES),
        lambda: device.load([SCALE]),
        device.synchronize,
        device.begin_capture,
    ):
        with pytest.raises(CompilerBug, match="between begin_capture and end_capture"):
            call()
    device.end_capture()
    with pytest.raises(CompilerBug, match="without begin_capture"):
        device.end_capture()


@pytest.mark.parametrize(
    "arguments",
    [[np.float32(1)], [np.float64(1), np.int32(40)], [np.float32(1), np.int64(40)]],
)
def test_arguments_have_the_sizes_of_the_parameters(
    device: Emulator, arguments: list[np.generic]
) -> None:
    x = upload(device, ONES)
    with pytest.raises(CompilerBug, match=r"bytes of each parameter: \[8, 4, 4\]"):
        device.launch(
            device.load([SCALE]).kernels["scale"], (2, 1, 1), (32, 1, 1), 0, [x, *arguments]
        )


def test_a_kernel_may_touch_only_the_part_that_it_is_given(device: Emulator) -> None:
    x = upload(device, np.ones(120, np.float32))
    scale(device, x.part(160, 160), 2.0)
    want = np.repeat([1, 2, 1], 40)
    np.testing.assert_array_equal(download(device, x, np.float32, [120]), want)
    with pytest.raises(KernelFault, match="past the end of the memory of parameter 0 of 156 bytes"):
        scale(device, x.part(160, 156), 2.0)
    with pytest.raises(CompilerBug, match="do not lie within"):
        x.part(400, 100)


def test_memory_behind_pointers_in_memory_has_to_be_named(device: Emulator) -> None:
    x = device.allocate(160)
    table = upload(device, np.array([x.address], np.uint64))
    kernel = device.load([SCALE]).kernels["follow"]
    with pytest.raises(KernelFault, match="out of bounds: writes 4 bytes"):
        device.launch(kernel, (1, 1, 1), (40, 1, 1), 0, [table])
    device.launch(kernel, (1, 1, 1), (40, 1, 1), 0, [table], reaches=[x])
    np.testing.assert_array_equal(download(device, x, np.float32, [40]), 3 * ONES)


def test_new_memory_is_poison_and_says_what_is_unwritten(device: Emulator) -> None:
    x, values = device.allocate(160), np.zeros(40, np.float32)
    assert x.address % 256 == 0
    device.copy_from(x, values)
    assert np.isnan(values).all()
    assert device.first_unwritten(x) == 0
    device.copy_to(x, ONES[:10])
    assert device.first_unwritten(x) == 40
    device.copy_to(x, ONES)
    assert device.first_unwritten(x) is None
    device.poison(x.part(8, 4))
    assert device.first_unwritten(x) == 8


def test_memory_has_bounds_and_an_end(device: Emulator) -> None:
    x = device.allocate(156)
    with pytest.raises(CompilerBug, match="160 bytes do not fit into 156 bytes"):
        device.copy_to(x, ONES)
    device.free(x)
    with pytest.raises(CompilerBug, match="freed already"):
        device.free(x)
    with pytest.raises(CompilerBug, match="freed already"):
        device.copy_to(x, ONES[:1])


@pytest.mark.parametrize(
    ("block", "shared", "said"),
    [
        ((32, 33, 1), 0, "1056 threads in a block"),
        ((0, 1, 1), 0, "0 threads in a block"),
        ((32, 1, 1), 300_000, "asks for 300000 bytes of shared memory"),
    ],
)
def test_a_launch_that_no_device_takes(
    device: Emulator, block: tuple[int, int, int], shared: int, said: str
) -> None:
    x = upload(device, ONES)
    arguments = [x, np.float32(1), np.int32(40)]
    with pytest.raises(KernelFault, match=said):
        device.launch(device.load([SCALE]).kernels["scale"], (1, 1, 1), block, shared, arguments)


def test_the_order_of_threads_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """#include "gc_device.cuh"
extern "C" __global__ void order(float *out) {
  gc_atomic_add(out, __uint_as_float((127u + threadIdx.x % 20) << 23) + out[0] * 0.25f);
}
"""

    def run(device: Emulator) -> float:
        memory = upload(device, np.zeros(1, np.float32))
        kernel = device.load([SourceFile("order.cu", text)]).kernels["order"]
        device.launch(kernel, (3, 1, 1), (64, 1, 1), 0, [memory])
        return float(download(device, memory, np.float32, [1])[0])

    assert run(Emulator(1)) == run(Emulator(1))
    assert len({run(Emulator(seed)) for seed in range(6)}) > 1
    monkeypatch.setenv("GRAPHC_EMULATOR_SEED", "3")
    assert Emulator().seed == 3
    assert run(Emulator()) == run(Emulator(3))
    monkeypatch.setenv("GRAPHC_EMULATOR_SEED", "-3")
    with pytest.raises(UserError, match="a whole number below"):
        Emulator()
    monkeypatch.delenv("GRAPHC_EMULATOR_SEED")
    assert Emulator().seed != Emulator().seed


def test_a_library_is_compiled_once(device: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_emulated("scale", [SCALE])
    assert first.kernels == dict.fromkeys(("scale", "copy", "follow"), "scale.cu")
    assert first.compiled
    monkeypatch.setenv("GRAPHC_COMPILE_TIMEOUT", "0.001")  # no compiler is as fast as that
    again = build_emulated("scale", [SCALE])
    assert (again.path, again.compiled) == (first.path, False)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainError, match="needs g\\+\\+, and there is no 'no-such-compiler'"):
        build_emulated("scale", [SCALE])


def test_a_text_that_does_not_compile_is_shown(device: Emulator) -> None:
    broken = SourceFile("broken.cu", SCALE.text.replace("x[i] *= factor", "x[i] *= undeclared"))
    with pytest.raises(ToolchainError) as error:
        device.load([broken])
    assert "broken.cu:4" in str(error.value)
    assert "undeclared" in str(error.value)
    with pytest.raises(CompilerBug, match="has no"):
        device.load([SourceFile("empty.cu", "int x;\n")])


def test_the_emulator_keeps_the_protocol(device: Emulator) -> None:
    driver: Driver = device
    assert driver.name == "cuda-emu"
    assert isinstance(driver.load([SCALE]).kernels["scale"], Kernel)
