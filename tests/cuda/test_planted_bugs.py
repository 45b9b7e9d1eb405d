"""The emulator proves itself: each bug planted into a correct kernel is caught and named."""

from collections.abc import Callable

import numpy as np
import pytest

from graphc.backends.cuda.emulator import Emulator
from graphc.backends.cuda.fault import KernelFault
from graphc.ir.source import SourceFile
from tests.cuda.device import (
    SM_80,
    bf16_bits,
    bf16_values,
    run_cluster,
    run_gemm,
    run_pipeline,
    source,
    upload,
)

Run = Callable[..., np.ndarray]
SEEDS = (1, 2, 3)


def operands(rows: int, columns: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    a, b = (bf16_bits(generator.normal(size=(n, depth))) for n in (rows, columns))
    return a, b


def assert_caught(run: Run, bug: dict[str, str], *said: str) -> None:
    """Whatever the order of threads, the launch fails and says so; without the bug it is right."""
    a, b = operands(72, 40, 144)
    want = bf16_values(a).astype(float) @ bf16_values(b).astype(float).T
    for seed in SEEDS:
        np.testing.assert_allclose(run(Emulator(seed), a, b), want, rtol=0, atol=1e-4)
        with pytest.raises(KernelFault) as caught:
            run(Emulator(seed), a, b, bug)
        assert any(word in caught.value.fault.what for word in said), str(caught.value)
        assert f"GRAPHC_EMULATOR_SEED={seed}" in str(caught.value)


@pytest.mark.parametrize("order", [1, 2, 3, None])
def test_the_kernel_without_a_bug_does_not_depend_on_the_order(order: int | None) -> None:
    a, b = operands(100, 72, 80)
    c = run_gemm(Emulator(order), a, b)
    want = bf16_values(a).astype(float) @ bf16_values(b).astype(float).T
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-4)
    assert c.tobytes() == run_gemm(Emulator(17), a, b).tobytes()


# ---- The six of the requirement ----------------------------------------------------------------


def test_a_missing_barrier() -> None:
    bug = {"gc_syncthreads();  // this stage may be overwritten": ""}
    assert_caught(run_gemm, bug, "no barrier in between", "asynchronous copy")


def test_a_missing_barrier_before_the_first_read() -> None:
    bug = {"gc_syncthreads();  // this stage is complete": ""}
    assert_caught(run_gemm, bug, "is a barrier missing?", "race:")


def test_a_wait_that_is_off_by_one() -> None:
    bug = {"gc_cp_async_wait_group<1>": "gc_cp_async_wait_group<2>"}
    assert_caught(run_gemm, bug, "gc_cp_async_wait_group is missing or lets one group too many")


def test_a_divergent_barrier() -> None:
    bug = {"gc_syncthreads();  // this stage is complete": "if (warp != 3) gc_syncthreads();"}
    assert_caught(run_gemm, bug, "divergent barrier", "is a barrier missing?", "race:")


def test_a_barrier_that_some_threads_never_reach() -> None:
    bug = {"float sum[2][4][4] = {};": "float sum[2][4][4] = {};\n  if (warp == 2) return;"}
    assert_caught(run_gemm, bug, "divergent barrier: threads 0-63, 96-127 wait for gc_syncthreads")


def test_an_overrun_of_shared_memory() -> None:
    bug = {"stages + (step + 1) % 2 * STAGE": "stages + (step + 1) % 3 * STAGE"}
    assert_caught(run_gemm, bug, "out of bounds: gc_cp_async, 16 bytes of shared memory")


def test_a_missing_border_predicate() -> None:
    bug = {"first_row + row < rows && first_depth + column < depth": "first_depth + column < depth"}
    assert_caught(run_gemm, bug, "out of bounds: reads 16 bytes")


def test_a_missing_border_predicate_at_the_store() -> None:
    assert_caught(run_gemm, {"if (y < m && x < n) c": "c"}, "out of bounds: writes 4 bytes")


def test_an_output_that_nobody_writes() -> None:
    device, (a, b) = Emulator(1), operands(64, 64, 32)
    bug = {"if (y < m && x < n)": "if (y < m && x < n - 1)"}
    kernel = device.load([source(SM_80 / "gemm.cu", bug)]).kernels["gemm"]
    c = device.allocate(4 * 64 * 64)
    arguments = [upload(device, a), upload(device, b), c, *map(np.int32, (64, 64, 32))]
    device.launch(kernel, (1, 1, 1), (128, 1, 1), 20480, arguments)
    assert device.first_unwritten(c) == 63 * 4
    result = np.empty((64, 64), np.float32)
    device.copy_from(c, result)
    assert np.isnan(result[:, 63]).all()
    assert np.isfinite(result[:, :63]).all()


# ---- The same for tensor copies and wgmma ------------------------------------------------------


TOO_EARLY = ("wait for its mbarrier", "nothing has written", "gc_wgmma_bf16 may still read it")


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ({"gc_mbarrier_wait(full + stage, phase);": "(void)phase;"}, TOO_EARLY),
        ({"gc_mbarrier_wait(full + stage, phase);": "gc_mbarrier_wait(full + stage, phase ^ 1);"},
         (*TOO_EARLY, "deadlock")),
        ({"gc_mbarrier_wait(empty + stage, phase ^ 1);": "(void)phase;"},
         (*TOO_EARLY, "one arrival more")),
        ({"gc_mbarrier_wait(empty + stage, phase ^ 1);": "gc_mbarrier_wait(empty + stage, phase);"},
         ("deadlock",)),
        ({"if (threadIdx.x % 128 == 0) gc_mbarrier_arrive": "if (false) gc_mbarrier_arrive"},
         ("deadlock",)),
        ({"full + stage, 2 * TILE_BYTES": "full + stage, 3 * TILE_BYTES"}, ("deadlock",)),
        ({"gc_mbarrier_init(empty + stage, 1)": "gc_mbarrier_init(empty + stage, 2)"},
         ("deadlock",)),
        ({"gc_tma_load_2d(tile, a": "gc_mbarrier_arrive(full + stage);\ngc_tma_load_2d(tile, a"},
         ("one arrival more",)),
        ({"    gc_fence_async();\n": ""}, ("no gc_fence_async after gc_mbarrier_init",)),
        ({"gc_syncthreads();": ""}, ("mbarrier",)),
        ({"gc_wgmma_wait_group<0>(sum);": ""}, ("may still read it",)),
        ({"gc_tma_load_2d(tile, a": "gc_tma_load_2d(tile + 512, a"}, ("misaligned",)),
        ({"__shared__ gc_mbarrier full[STAGES]": "__shared__ gc_mbarrier full[1]"},
         ("out of bounds",)),
    ],
    ids=str,
)  # fmt: skip
def test_a_bug_in_the_pipeline(bug: dict[str, str], said: tuple[str, ...]) -> None:
    assert_caught(run_pipeline, bug, *said)


ENDED = ("gc_cluster_sync is missing",)


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ({"full + stage, 3, step": "full + stage, 1u << rank, step"}, ("deadlock",)),
        ({"full + stage, 3, step": "full + stage, 2u >> rank, step"}, ("deadlock",)),
        ({"full + stage, 3, step": "full + stage, 7, step"}, ("for block 2 of a cluster of 2",)),
        ({"full + stage, 3, step": "full + stage, 0, step"}, ("for no block",)),
        ({"empty + stage, threadIdx.x % 128)": "empty + stage, (unsigned)rank)"},
         ("deadlock", "one arrival more", *TOO_EARLY)),
        ({"if (threadIdx.x % 128 < BLOCKS)": "if ((int)threadIdx.x % 128 == rank)"}, ("deadlock",)),
        ({"empty + stage, BLOCKS": "empty + stage, 1"}, ("one arrival more", *TOO_EARLY)),
        ({"empty + stage, BLOCKS": "empty + stage, BLOCKS + 1"}, ("deadlock",)),
        ({"gc_mbarrier_wait(empty + stage, phase ^ 1);": "gc_mbarrier_wait(empty + stage, phase);"},
         ("deadlock",)),
        ({"gc_mbarrier_wait(full + stage, phase);": "(void)phase;"}, TOO_EARLY),
        ({"full + stage, 2 * TILE_BYTES": "full + stage, 3 * TILE_BYTES / 2"}, TOO_EARLY),
        ({"  gc_cluster_sync();  // the other": "  // the other"}, ENDED),
        ({"    gc_fence_mbarrier_init();\n": ""}, ("no gc_fence_mbarrier_init",)),
        ({"  }\n  gc_cluster_sync();\n": "  }\n  gc_syncthreads();\n"}, ("mbarrier",)),
    ],
    ids=str,
)  # fmt: skip
def test_a_bug_in_a_cluster(bug: dict[str, str], said: tuple[str, ...]) -> None:
    assert_caught(run_cluster, bug, *said)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("__shared__ float line[32]; line[threadIdx.x] = 1.0f;", "have dynamic memory only"),
        ("tiles[2048 - 2048 * gc_cluster_rank()] = 1;", "belongs to another block"),
        ("if (gc_cluster_rank() == 0) gc_cluster_sync();",
         "deadlock: threads 0-31 wait for gc_cluster_sync (line 5) in block 0 of the cluster; "
         "threads 0-31 finished in block 1"),
    ],
)  # fmt: skip
def test_a_broken_rule_of_clusters(statement: str, said: str) -> None:
    text = f"""#include "gc_device.cuh"
extern "C" __global__ void __cluster_dims__(2, 1, 1) both(float *out) {{
  GC_DYNAMIC_SHARED(tiles);
  tiles[threadIdx.x] = 1;
  {statement}
  out[blockIdx.x * 32 + threadIdx.x] = (float)tiles[threadIdx.x];
}}
"""
    device = Emulator(3)
    kernel = device.load([SourceFile("both.cu", text)]).kernels["both"]
    out = device.allocate(256)
    with pytest.raises(KernelFault) as caught:
        device.launch(kernel, (2, 1, 1), (32, 1, 1), 1024, [out])
    assert said in caught.value.fault.what
    with pytest.raises(KernelFault, match="for clusters of 2"):
        device.launch(kernel, (3, 1, 1), (32, 1, 1), 1024, [out])


# ---- Small kernels, one rule each --------------------------------------------------------------

SMALL = """#include "gc_device.cuh"
extern "C" __global__ void small(const float *x, float *y, int n) {
  __shared__ float line[64];
  const int i = (int)threadIdx.x;
  line[i] = x[i];
  gc_syncthreads();
  %s
}
"""


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("y[i] = line[i + n];", "out of bounds: index 64 of an array"),
        ("y[i] = *(line + i + 1 + 0 * n);", "out of bounds: reads 4 bytes"),
        ("y[i - 1] = 0.0f;", "out of bounds: writes 4 bytes, 4 bytes before the memory of"),
        ("y[i] = x[i + 1];", "0 bytes past the end of the memory of parameter 0 of 256 bytes"),
        ("float *far = nullptr; y[i] = far[n];", "far from all that the kernel was given"),
        ("y[i] = ((const float4 *)(x + n))->y;", "misaligned: a type of 16 bytes"),
        ("y[i] = *(const float *)((const char *)line + n);", "misaligned: a type of 4 bytes"),
        ("gc_cp_async16(line + 4 * (i % 16), x + n);", "misaligned: 16 bytes"),
        ("line[0] = 1.0f;", "race: writes byte 0 of the __shared__ arrays, which thread"),
        ("line[i ^ 1] = 1.0f; y[i] = line[i];", "race:"),
        ("y[i] = y[i] + 1.0f;", "of the memory of parameter 1, which nothing has written"),
        ("__shared__ float other[64]; y[i] = other[i];", "which nothing has written: is a barrier"),
        ("y[i] = (float)(i / (n - 1));", "divided by zero"),
        ("if (i < 16) y[i] = gc_shfl_xor(line[i], 1);",
         "divergent warp: threads 0-15 wait for gc_shfl_xor (line 7)"),
        ("if (i < 16) gc_shfl(n, 0); else gc_shfl_xor(n, 1);", "divergent warp: it comes to"),
        ("if (i < 32) gc_barrier_sync(1, 64);", "deadlock: threads 0-31 wait for gc_barrier_sync"),
        ("if (i < 32) gc_syncthreads();\nelse gc_syncthreads();", "divergent barrier: it comes to"),
        ("gc_barrier_sync(1, 48);", "barrier 1 for 48 threads"),
        ("for (volatile int k = 1; k; k = 2) line[0 * k + i] = 1.0f;", "runs on and on"),
    ],
    ids=lambda text: text if text.startswith("y[") else None,
)  # fmt: skip
def test_a_broken_rule(statement: str, said: str) -> None:
    device = Emulator(5)
    kernel = device.load([SourceFile("small.cu", SMALL % statement)]).kernels["small"]
    x, y = upload(device, np.ones(64, np.float32)), device.allocate(256)
    with pytest.raises(KernelFault) as caught:
        device.launch(kernel, (1, 1, 1), (64, 1, 1), 0, [x, y, np.int32(1)])
    assert said in caught.value.fault.what


def test_a_failure_names_kernel_line_block_thread_and_seed() -> None:
    device = Emulator(6)
    text = SMALL % "if (blockIdx.x == 2 && i == 33) y[i] = x[64 * n];"
    kernel = device.load([SourceFile("small.cu", text)]).kernels["small"]
    x, y = upload(device, np.ones(64, np.float32)), device.allocate(256)
    with pytest.raises(KernelFault) as caught:
        device.launch(kernel, (3, 1, 1), (64, 1, 1), 0, [x, y, np.int32(1)])
    assert str(caught.value) == "\n".join(
        [
            "small.cu:7: kernel small: out of bounds: reads 4 bytes, 0 bytes past the end of the "
            "memory of parameter 0 of 256 bytes",
            "  in block (2, 0, 0), thread (33, 0, 0)",
            "  the same order of threads again: GRAPHC_EMULATOR_SEED=6",
        ]
    )
