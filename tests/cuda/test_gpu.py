"""The driver of a GPU against a made-up PyCUDA that runs kernels on the emulator."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphc.backends.cuda import gpu as gpu_module
from graphc.backends.cuda import libcuda
from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.device import open_device
from graphc.backends.cuda.driver import (
    DeviceMemory,
    Driver,
    OutOfMemory,
    TensorBox,
    TensorMap,
)
from graphc.backends.cuda.emulator_build import kernel_names
from graphc.backends.cuda.gpu import Gpu, packed_arguments
from graphc.backends.cuda.libcuda import LibCuda
from graphc.compiler import compile_graph
from graphc.errors import CompilerBug, ToolchainError, UserError
from graphc.ops import leaves
from graphc.ops.linear import matmul
from tests.compiled import assert_close, run_python
from tests.cuda.fake_pycuda import FakeCuda
from tests.cuda.test_programs import feeds, small_step

__all__ = ["feeds"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCuda]:
    """PyCUDA, libcuda and the CUDA compiler replaced; a cubin is the source itself."""
    cuda = FakeCuda()

    def compiled(net: str, files: Any, architectures: Any, progress: Any) -> Any:
        cubins = {}
        for file in files:
            path = tmp_path / f"{file.name}.cubin"
            path.write_text(file.text)
            cubins[file.name, architectures[0]] = path
        symbols = {name: name for file in files for name in kernel_names(file)}
        return SimpleNamespace(
            cubins=cubins, symbols=symbols, folder=tmp_path, compiled=True, seconds=0.1
        )

    monkeypatch.setattr(gpu_module, "_pycuda", lambda: cuda)
    monkeypatch.setattr(gpu_module, "LibCuda", lambda: cuda)
    monkeypatch.setattr(gpu_module, "compile_sources", compiled)
    open_device.cache_clear()
    yield cuda
    open_device.cache_clear()


def test_a_step_on_a_gpu(fake: FakeCuda, feeds: dict[str, np.ndarray]) -> None:
    ours, theirs = small_step("cuda"), small_step("c")
    for _ in range(3):
        for a, b in zip(ours(**feeds), theirs(**feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert ours.program.machine == "made-up GPU"
    assert fake.calls == ["begin", "end", "replay", "replay", "replay"]
    assert set(ours.program.profile(**feeds).values()) == {0.0025}
    del ours
    gc.collect()
    assert fake.calls[-1] == "destroy"
    assert not fake.memory


def test_products_by_boxes_on_a_gpu(fake: FakeCuda, seeded: np.random.Generator) -> None:
    """Tensor maps are made once, for addresses that stay, and come first in every launch."""
    x, w = leaves.input("x", (128, 64)), leaves.parameter("w", (64, 64))
    program = compile_graph([matmul(x, w)], target="cuda", precision="bf16")
    for _ in range(2):
        feed = seeded.normal(size=(128, 64)).astype("f4")
        [got] = program(x=feed)
        want = feed @ np.asarray(program.parameters["w"])
        assert_close(got, want, 1e-2)
    assert len(fake.maps) == 2
    fake.capability = (8, 0)
    open_device.cache_clear()
    older = compile_graph([matmul(x, w)], target="cuda", precision="bf16")
    assert not any("gc_tma_load" in kernel.source for kernel in older.kernels.values())
    with pytest.raises(UserError, match="kernels for sm_90a do not run on made-up GPU, which is"):
        compile_graph([matmul(x, w)], target="cuda", precision="bf16", arch="sm_90a")


def test_an_architecture_that_is_none() -> None:
    x, w = leaves.input("x", (128, 64)), leaves.parameter("w", (64, 64))
    with pytest.raises(UserError, match="there is no architecture 'hopper'"):
        compile_graph([matmul(x, w)], target="cuda-emu", arch="hopper")
    with pytest.raises(UserError, match="arch names a device"):
        compile_graph([matmul(x, w)], arch="sm_80")


def test_the_driver_keeps_the_protocol(fake: FakeCuda) -> None:
    driver: Driver = Gpu()
    array = DeviceArray(driver, (3,), np.dtype(np.float32))
    array[...] = [1, 2, 3]
    copy = DeviceArray(driver, (3,), np.dtype(np.float32))
    driver.copy(copy.memory, array.memory)
    np.testing.assert_array_equal(copy, [1, 2, 3])
    with pytest.raises(CompilerBug, match="do not fit"):
        driver.copy_to(array.memory, np.zeros(4, np.float32))
    driver.free(driver.allocate(16))
    with pytest.raises(CompilerBug, match="not allocated"):
        driver.free(DeviceMemory(1, 1))


def test_the_code_is_for_the_device(fake: FakeCuda) -> None:
    for capability, name in (((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90a")):
        fake.capability = capability
        assert Gpu().architecture == name
    fake.capability = (7, 5)
    with pytest.raises(ToolchainError, match=r"8\.0 or later; made-up GPU has 7\.5"):
        Gpu()


def test_too_little_memory_is_told_in_numbers(fake: FakeCuda) -> None:
    driver = Gpu()
    held = driver.allocate(900 << 20)
    with pytest.raises(OutOfMemory) as error:
        driver.allocate(200 << 20)
    assert (error.value.needed, error.value.free) == (200 << 20, 124 << 20)
    assert "needed: 200 MiB" in str(error.value)
    assert isinstance(error.value, UserError)
    driver.free(held)


def test_a_driver_older_than_the_compiler(fake: FakeCuda) -> None:
    with pytest.raises(ToolchainError, match="install nvidia-cuda-nvrtc-cu12"):
        Gpu()._module(b"for a later driver", "net.cu")


def test_a_forked_process_is_told_so(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Gpu()
    held = driver.allocate(16)
    monkeypatch.setattr(gpu_module.os, "getpid", lambda: -1)
    with pytest.raises(UserError, match="forked"):
        driver.allocate(16)
    driver.free(held)  # the parent's memory; nothing happens


def test_tensor_maps_come_first() -> None:
    box = TensorBox(DeviceMemory(4096, 1 << 16), 2, (64, 64), (128, 2), (64, 64), 128)
    chart = TensorMap(box, bytes(128))
    formats, values = packed_arguments([chart, DeviceMemory(64, 8), np.int32(5), np.float32(0.5)])
    assert formats == ["128s", "P", "i", "f"]
    assert values == [bytes(128), 64, 5, 0.5]
    with pytest.raises(CompilerBug, match="come before"):
        packed_arguments([np.int32(5), chart])


class Recorder:
    """A libcuda whose calls are kept; each answers with ``failure``."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}
        self.failure = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls[name] = arguments
            return 0 if name == "cuGetErrorString" else self.failure

        return call


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(libcuda.ctypes, "CDLL", lambda name: found)
    return found


def test_a_tensor_map_is_described_innermost_first(recorder: Recorder) -> None:
    box = TensorBox(
        DeviceMemory(1 << 20, 1 << 20), 2, (2, 6, 6, 64), (4608, 768, 128, 2), (1, 4, 4, 64), 128
    )
    LibCuda().tensor_map(box)
    where, kind, rank, address, shape, strides, extents, steps, *rest = recorder.calls[
        "cuTensorMapEncodeTiled"
    ]
    assert where.value % 64 == 0
    assert (kind.value, rank.value, address.value) == (1, 4, 1 << 20)
    assert list(shape) == [64, 6, 6, 2]
    assert list(strides) == [128, 768, 4608]
    assert list(extents) == [64, 4, 4, 1]
    assert list(steps) == [1, 1, 1, 1]
    assert [one.value for one in rest] == [0, 3, 2, 0]


def test_a_graph_is_captured_made_and_launched(recorder: Recorder) -> None:
    library = LibCuda()
    library.begin_capture(5)
    library.end_capture(5)
    library.launch_graph(9, 5)
    assert list(recorder.calls) == [
        "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags",
        "cuGraphDestroy", "cuGraphLaunch",
    ]  # fmt: skip
    assert [a.value for a in recorder.calls["cuGraphLaunch"]] == [9, 5]


def test_a_call_that_fails_is_named(recorder: Recorder) -> None:
    recorder.failure = 700
    with pytest.raises(ToolchainError, match=r"unknown error \(CUDA error 700\)"):
        LibCuda().launch_graph(9, 5)


def missing(monkeypatch: pytest.MonkeyPatch, driver: bool, **attributes: Any) -> None:
    """A machine with or without libcuda, whose pycuda.driver has these attributes."""

    def load(name: str, *rest: Any) -> Any:
        if not driver:
            raise OSError("no such file")
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", load)
    package, module = ModuleType("pycuda"), ModuleType("pycuda.driver")
    for name, value in attributes.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module if attributes else None)


def fails() -> None:
    raise RuntimeError("no CUDA-capable device is detected")


@pytest.mark.parametrize(
    ("driver", "attributes", "message"),
    [
        (False, {}, "needs NVIDIA's driver"),
        (True, {}, r"needs PyCUDA, which cannot be imported(.|\n)*graphc-compiler\[cuda\]"),
        (True, {"init": fails, "Error": RuntimeError}, "needs a GPU: no CUDA-capable device"),
        (
            True,
            {
                "init": lambda: None,
                "Error": RuntimeError,
                "Device": SimpleNamespace(count=lambda: 0),
            },
            "the driver shows none",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    driver: bool, attributes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch, driver, **attributes)
    with pytest.raises(ToolchainError, match=message) as error:
        Gpu()
    assert "target='cuda-emu'" in str(error.value)


WITHOUT_GPU = """
import ctypes, sys
sys.modules["pycuda"] = None
load = ctypes.CDLL.__init__
def refuse(self, name, *rest, **settings):
    assert "libcuda" not in str(name), "libcuda was looked for"
    return load(self, name, *rest, **settings)
ctypes.CDLL.__init__ = refuse
import numpy as np
import graphc as gx
from click.testing import CliRunner
from graphc.cli import main
x, w = gx.input("x", (4, 3)), gx.parameter("w", (2, 3))
step = gx.training_step(gx.mean(gx.square(gx.dense(x, w))), gx.SGD(0.1))
assert step(x=np.ones((4, 3), np.float32))[0] > 0
shown = CliRunner().invoke(main, ["show", "lenet5", "--stage", "schedule"])
assert shown.exit_code == 0, shown.output
print("fine")
"""


def test_nothing_but_the_target_looks_for_a_gpu() -> None:
    assert run_python(WITHOUT_GPU).strip() == "fine"
