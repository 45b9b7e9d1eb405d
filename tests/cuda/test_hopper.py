"""The wrappers of sm_90a: tensor copies with borders and swizzles, products of a warpgroup."""

from functools import reduce

import numpy as np
import pytest

from graphc.backends.cuda.driver import TensorBox
from graphc.backends.cuda.emulator import Emulator
from graphc.errors import CompilerBug
from tests.cuda.device import (
    SM_90A,
    bf16_bits,
    bf16_values,
    download,
    launch,
    matrix_map,
    run_cluster,
    run_pipeline,
    upload,
)

WRAPPERS = SM_90A / "wrappers.cu"


@pytest.fixture(params=[1, 2, 3])
def device(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(seed=request.param)


def swizzled(offset: np.ndarray, width: int) -> np.ndarray:
    """In rows of 128 bytes, the 16-byte column xor as many bits of the row as the width has."""
    row, column = offset // 128, offset % 128 // 16
    return row * 128 + (column ^ (row % 8 & (max(width // 16, 1) - 1))) * 16 + offset % 16


@pytest.mark.parametrize("width", [32, 64, 128])
def test_swizzle_permutes_the_chunks_of_lines(width: int) -> None:
    device, n = Emulator(seed=0), 128
    out = device.allocate(4 * 3 * n)
    launch(device, WRAPPERS, "swizzles", n, [out])
    ours = download(device, out, np.uint32, (3, n))[[32, 64, 128].index(width)]
    np.testing.assert_array_equal(ours, swizzled(16 * np.arange(n), width))
    assert sorted(ours) == list(range(0, 16 * n, 16))


def box_of(x: np.ndarray, box: tuple[int, ...], start: tuple[int, ...]) -> np.ndarray:
    """The box that starts there, zeros outside of the array."""
    places = [np.arange(s, s + n) for s, n in zip(start, box, strict=True)]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, x.shape, strict=True)]
    clipped = [p.clip(0, n - 1) for p, n in zip(places, x.shape, strict=True)]
    return np.where(reduce(np.logical_and.outer, inside), x[np.ix_(*clipped)], 0)


@pytest.mark.parametrize(
    ("shape", "box", "start", "swizzle"),
    [
        ((9, 24), (4, 16), (2, 8), 0),
        ((9, 24), (8, 16), (-3, -5), 32),
        ((9, 24), (8, 32), (6, 12), 64),
        ((20, 64), (16, 64), (9, 0), 128),
        ((20, 64), (8, 64), (30, 0), 128),
        ((4, 5, 16), (2, 3, 8), (3, -1, 4), 0),
        ((3, 5, 6, 64), (2, 4, 4, 64), (1, -1, 4, 0), 128),
        ((2, 2, 3, 4, 8), (1, 2, 2, 3, 8), (1, 1, -1, 2, 3), 0),
    ],
)
def test_a_tensor_copy_brings_a_box(
    device: Emulator,
    seeded: np.random.Generator,
    shape: tuple[int, ...],
    box: tuple[int, ...],
    start: tuple[int, ...],
    swizzle: int,
) -> None:
    x = seeded.integers(1, 2**16, shape).astype(np.uint16)
    tensor = device.encode(TensorBox(upload(device, x), 2, shape, x.strides, box, swizzle))
    size = 2 * int(np.prod(box))
    out = device.allocate(size)
    coordinates = [np.int32(c) for c in reversed(start)]
    name = f"copy_{len(shape)}d"
    launch(device, WRAPPERS, name, 32, [tensor, out, np.int32(size), *coordinates], size)
    ours = download(device, out, np.uint8, [size])
    want = np.ascontiguousarray(box_of(x, box, start)).reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(ours[swizzled(np.arange(size), swizzle)], want)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"strides": (50, 2)}, "strides are multiples of 16 bytes"),
        ({"box": (4, 300)}, "1 to 256 elements"),
        ({"box": (4, 4)}, "a row of the box is a multiple of 16 bytes"),
        ({"box": (4, 24), "swizzle": 32}, "at most as long as the swizzle"),
        ({"swizzle": 16}, "the swizzle is one of"),
        ({"shape": (10, 24)}, "lies within its memory"),
        ({"shape": (24,), "strides": (2,), "box": (8,)}, "2 to 5 dimensions"),
    ],
)
def test_a_box_that_the_hardware_refuses_is_refused(change: dict, rule: str) -> None:
    memory = Emulator(seed=0).allocate(9 * 48)
    good = {"shape": (9, 24), "strides": (48, 2), "box": (4, 8), "swizzle": 0}
    TensorBox(memory, 2, **good)
    with pytest.raises(CompilerBug, match=rule):
        TensorBox(memory, 2, **(good | change))


@pytest.mark.parametrize("columns", [16, 32, 64, 128, 256])
def test_wgmma_with_both_operands_along_the_depth(
    seeded: np.random.Generator, columns: int
) -> None:
    device = Emulator(seed=columns)
    a, b = (bf16_bits(seeded.normal(size=(n, 64))) for n in (64, columns))
    check_wgmma(device, f"multiply_{columns}", a, b, bf16_values(a), bf16_values(b).T)


@pytest.mark.parametrize("columns", [64, 256])
def test_wgmma_with_both_operands_transposed(seeded: np.random.Generator, columns: int) -> None:
    device = Emulator(seed=columns)
    a, b = (bf16_bits(seeded.normal(size=(64, n))) for n in (64, columns))
    name = f"multiply_transposed_{columns}"
    check_wgmma(device, name, a, b, bf16_values(a).T, bf16_values(b))


def check_wgmma(
    device: Emulator, name: str, a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray
) -> None:
    """The first product ignores what the accumulators hold, the later ones add."""
    out = device.allocate(4 * 64 * right.shape[1])
    arguments = [upload(device, a), upload(device, b), out]
    launch(device, WRAPPERS, name, 128, arguments, 64 * 128 + 128 * max(64, right.shape[1]))
    want = left.astype(float) @ right.astype(float)
    ours = download(device, out, np.float32, want.shape)
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wait", ["", "gc_wgmma_wait_group<1>(sum);"])
def test_sums_are_poison_until_the_right_wait(seeded: np.random.Generator, wait: str) -> None:
    device = Emulator(seed=0)
    a, b = (upload(device, bf16_bits(seeded.normal(size=(64, 64)))) for _ in "ab")
    out = device.allocate(4 * 64 * 64)
    bug = {"gc_wgmma_wait_group<0>(sum);": wait}
    launch(device, WRAPPERS, "multiply_64", 128, [a, b, out], 2 * 64 * 128, bug)
    assert np.isnan(download(device, out, np.float32, [64 * 64])).all()


def test_a_producer_and_consumers_multiply_matrices(
    device: Emulator, seeded: np.random.Generator
) -> None:
    """Borders in all three directions, more steps than stages, several blocks."""
    a, b = (bf16_bits(seeded.normal(size=(n, 200))) for n in (100, 72))
    c = run_pipeline(device, a, b)
    want = bf16_values(a).astype(float) @ bf16_values(b).astype(float).T
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-4)


def test_blocks_of_a_cluster_share_what_each_brings(
    device: Emulator, seeded: np.random.Generator
) -> None:
    """Borders in all three directions, more steps than stages, several clusters."""
    a, b = (bf16_bits(seeded.normal(size=(n, 200))) for n in (200, 72))
    c = run_cluster(device, a, b)
    want = bf16_values(a).astype(float) @ bf16_values(b).astype(float).T
    np.testing.assert_allclose(c, want, rtol=0, atol=1e-4)


def test_a_tensor_map_belongs_to_its_memory() -> None:
    device = Emulator(seed=0)
    memory = device.allocate(64 * 64 * 2)
    tensor = matrix_map(device, memory, (64, 64))
    assert tensor.box.memory == memory
    assert len(tensor.data) == 128
