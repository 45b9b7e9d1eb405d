"""What the tests of CUDA kernels share: texts, numbers of 16 bits, launches on arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphc.backends.cuda.driver import Argument, DeviceMemory, TensorBox, TensorMap
from graphc.backends.cuda.emulator import Emulator
from graphc.ir.source import SourceFile

KERNELS = Path(__file__).parent / "kernels"
SM_80 = KERNELS / "sm_80"
SM_90A = KERNELS / "sm_90a"


def source(path: Path, replacements: Mapping[str, str] | None = None) -> SourceFile:
    """A kernel's text, with pieces replaced; every piece must be there."""
    text = path.read_text(encoding="utf-8")
    for old, new in (replacements or {}).items():
        assert old in text, f"{path.name} has no {old!r}"
        text = text.replace(old, new)
    return SourceFile(path.name, text)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16, ties to even, as bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bf16_values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def upload(device: Emulator, array: np.ndarray) -> DeviceMemory:
    memory = device.allocate(array.nbytes)
    device.copy_to(memory, array)
    return memory


def download(
    device: Emulator, memory: DeviceMemory, dtype: type, shape: Sequence[int]
) -> np.ndarray:
    assert device.first_unwritten(memory) is None
    array = np.empty(shape, dtype)
    device.copy_from(memory, array)
    return array


def matrix_map(
    device: Emulator, memory: DeviceMemory, shape: tuple[int, int], rows: int = 64
) -> TensorMap:
    """Boxes of 64 columns of numbers of 16 bits from a matrix, swizzled by 128 bytes."""
    strides = (2 * shape[1], 2)
    return device.encode(TensorBox(memory, 2, shape, strides, (rows, 64), 128))


def run_gemm(
    device: Emulator, a: np.ndarray, b: np.ndarray, replacements: Mapping[str, str] | None = None
) -> np.ndarray:
    """``kernels/sm_80/gemm.cu`` on matrices of bf16 bits: a[m, k] times b[n, k]."""
    (m, k), n = a.shape, len(b)
    kernel = device.load([source(SM_80 / "gemm.cu", replacements)]).kernels["gemm"]
    c = device.allocate(4 * m * n)
    sizes = (np.int32(m), np.int32(n), np.int32(k))
    arguments = (upload(device, a), upload(device, b), c, *sizes)
    grid = (-(-n // 64), -(-m // 64), 1)
    device.launch(kernel, grid, (128, 1, 1), 2 * 2 * 64 * 40 * 2, arguments)
    return download(device, c, np.float32, (m, n))


def run_pipeline(
    device: Emulator, a: np.ndarray, b: np.ndarray, replacements: Mapping[str, str] | None = None
) -> np.ndarray:
    """``kernels/sm_90a/pipeline.cu`` on matrices of bf16 bits: a[m, k] times b[n, k]."""
    (m, k), n = a.shape, len(b)
    kernel = device.load([source(SM_90A / "pipeline.cu", replacements)]).kernels["pipeline"]
    c = device.allocate(4 * m * n)
    maps = [matrix_map(device, upload(device, x), x.shape) for x in (a, b)]
    sizes = (np.int32(m), np.int32(n), np.int32(-(-k // 64)))
    grid = (-(-n // 64), -(-m // 64), 1)
    device.launch(kernel, grid, (256, 1, 1), 2 * 2 * 64 * 64 * 2, (*maps, c, *sizes))
    return download(device, c, np.float32, (m, n))


def run_cluster(
    device: Emulator, a: np.ndarray, b: np.ndarray, replacements: Mapping[str, str] | None = None
) -> np.ndarray:
    """``kernels/sm_90a/cluster.cu`` on matrices of bf16 bits: a[m, k] times b[n, k]."""
    (m, k), n = a.shape, len(b)
    kernel = device.load([source(SM_90A / "cluster.cu", replacements)]).kernels["cluster"]
    c = device.allocate(4 * m * n)
    maps = [matrix_map(device, upload(device, x), x.shape, rows) for x, rows in ((a, 64), (b, 32))]
    sizes = (np.int32(m), np.int32(n), np.int32(-(-k // 64)))
    grid = (-(-m // 128) * 2, -(-n // 64), 1)
    device.launch(kernel, grid, (256, 1, 1), 2 * 2 * 64 * 64 * 2 + 32, (*maps, c, *sizes))
    return download(device, c, np.float32, (m, n))


def launch(
    device: Emulator,
    path: Path,
    name: str,
    threads: int,
    arguments: Sequence[Argument],
    shared_bytes: int = 0,
    replacements: Mapping[str, str] | None = None,
) -> None:
    """One block of a kernel."""
    kernel = device.load([source(path, replacements)]).kernels[name]
    device.launch(kernel, (1, 1, 1), (threads, 1, 1), shared_bytes, arguments)
