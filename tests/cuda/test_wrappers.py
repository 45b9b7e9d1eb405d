"""The wrappers of sm_80, each against what its documentation says, in NumPy."""

import ctypes

import numpy as np
import pytest

from graphc.backends.c.build import build_library, load
from graphc.backends.cuda.emulator import Emulator
from graphc.backends.templating import render
from graphc.ir.source import SourceFile
from tests.cuda.device import SM_80, bf16_bits, bf16_values, download, launch, upload

WRAPPERS = SM_80 / "wrappers.cu"
LANES = np.arange(32)


@pytest.fixture(params=[1, 2, 3])
def device(request: pytest.FixtureRequest) -> Emulator:
    return Emulator(seed=request.param)


def test_uniform_is_bit_for_bit_that_of_the_c_header() -> None:
    device = Emulator(seed=0)
    text = '#include "graphc.h"\ndouble uniform(int64_t a, int64_t b, int64_t c, int64_t d);\n'
    text += "double uniform(int64_t a, int64_t b, int64_t c, int64_t d)"
    text += " { return gc_uniform(a, b, c, d); }\n"
    header = SourceFile("graphc.h", render("c/graphc.h.jinja", halves=False))
    uniform = load(build_library("uniform", [SourceFile("u.c", text), header]).path).uniform
    uniform.restype, uniform.argtypes = ctypes.c_double, [ctypes.c_int64] * 4
    for seed, step, stream, first in ((0, 0, 0, 0), (-1, 7, 2**40 + 3, 2**33), (2**50, -4, 9, -32)):
        out = device.allocate(32 * 4)
        scalars = [np.int64(x) for x in (seed, step, stream, first)]
        launch(device, WRAPPERS, "uniform", 32, [out, *scalars])
        ours = download(device, out, np.float32, [32])
        want = [uniform(seed, step, stream, first + i) for i in range(32)]
        np.testing.assert_array_equal(ours.astype(float), want)


def test_philox_gives_the_published_words() -> None:
    """The known answers that come with Random123, for counters and keys of zeros and of ones."""
    for one, words in (
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        device = Emulator(seed=0)
        out, all_ones = device.allocate(16), one * (2**64 - 1)
        wide, narrow = np.uint64(all_ones), np.uint32(all_ones & 0xFFFFFFFF)
        launch(device, WRAPPERS, "philox", 1, [out, wide, narrow, narrow, wide])
        assert tuple(download(device, out, np.uint32, [4])) == words


def test_numbers_are_rounded_to_16_bits_as_numpy_rounds_them(seeded: np.random.Generator) -> None:
    bits = seeded.integers(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32)
    edges = np.array(
        [0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 6e-5,
         2049.0, 2051.0, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875, 3.4e38],
        np.float32,
    )  # fmt: skip
    x = np.concatenate([edges, bits.view(np.float32)])
    device, n = Emulator(seed=0), len(x)
    brain, half, tf32 = device.allocate(2 * n), device.allocate(2 * n), device.allocate(4 * n)
    pairs, back = device.allocate(8 * n), device.allocate(8 * n)
    launch(device, WRAPPERS, "convert", n, [upload(device, x), brain, half, tf32, pairs, back])
    with np.errstate(over="ignore", invalid="ignore"):
        want_half = np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))
    want_brain = np.where(np.isnan(x), np.uint16(0x7FFF), bf16_bits(x))
    np.testing.assert_array_equal(download(device, brain, np.uint16, [n]), want_brain)
    np.testing.assert_array_equal(download(device, half, np.uint16, [n]), want_half)
    both = download(device, pairs, np.uint16, [n, 2, 2])
    np.testing.assert_array_equal(both[:, 0], np.stack([want_brain, np.full(n, 0x3F80)], 1))
    np.testing.assert_array_equal(both[:, 1], np.stack([want_half, np.full(n, 0x3C00)], 1))
    values = download(device, back, np.float32, [n, 2])
    np.testing.assert_array_equal(values[:, 0], bf16_values(want_brain))
    np.testing.assert_array_equal(values[:, 1], want_half.view(np.float16).astype(np.float32))
    ours = download(device, tf32, np.float32, [n])[np.isfinite(x)].astype(float)
    finite = x[np.isfinite(x)].astype(float)
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(finite), 2.0**-126))) - 10)
    away = np.sign(finite) * np.floor(np.abs(finite) / ulp + 0.5) * ulp
    np.testing.assert_array_equal(ours[np.isfinite(ours)], away[np.isfinite(ours)])


def test_shuffles(device: Emulator, seeded: np.random.Generator) -> None:
    x = seeded.integers(-1000, 1000, 32).astype(np.int32)
    out = device.allocate(4 * 128)
    launch(device, WRAPPERS, "shuffle", 32, [upload(device, x), out])
    down = np.where(LANES + 4 < 32, LANES + 4, LANES)
    want = [np.full(32, x[5]), x[LANES ^ 3], x[down], x + x[LANES ^ 16]]
    np.testing.assert_array_equal(download(device, out, np.int32, [4, 32]), want)


def test_atomic_additions(device: Emulator) -> None:
    out = upload(device, np.array([10.0], np.float32))
    launch(device, WRAPPERS, "atomic", 96, [out])
    assert download(device, out, np.float32, [1])[0] == 10 + sum(range(96))


def test_named_barriers_hand_over(device: Emulator, seeded: np.random.Generator) -> None:
    x = seeded.normal(size=(3, 32)).astype(np.float32)
    out = device.allocate(x.nbytes)
    launch(device, WRAPPERS, "named_barriers", 64, [upload(device, x), out])
    np.testing.assert_array_equal(download(device, out, np.float32, (3, 32)), x[:, ::-1])


def test_a_warp_may_share_memory_after_syncwarp(device: Emulator) -> None:
    x = np.arange(64, dtype=np.float32)
    out = device.allocate(x.nbytes)
    launch(device, WRAPPERS, "within_warp", 64, [upload(device, x), out])
    np.testing.assert_array_equal(download(device, out, np.float32, [64]), x[np.arange(64) ^ 31])


@pytest.mark.parametrize("valid", [0, 11, 32])
def test_asynchronous_copies_fill_with_zeros(
    device: Emulator, seeded: np.random.Generator, valid: int
) -> None:
    x = seeded.integers(0, 256, 512).astype(np.uint8)
    out = device.allocate(512 + 256 + 128)
    launch(device, WRAPPERS, "copies", 32, [upload(device, x), out, np.int32(valid)], 896)
    want = [np.where(np.arange(32 * n) < valid * n, x[: 32 * n], 0) for n in (16, 8, 4)]
    np.testing.assert_array_equal(download(device, out, np.uint8, [896]), np.concatenate(want))


def test_ldmatrix_hands_out_rows_and_columns(device: Emulator, seeded: np.random.Generator) -> None:
    x = seeded.integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    out = device.allocate(4 * 8 * 32)
    launch(device, WRAPPERS, "matrices", 32, [upload(device, x), out])
    words = download(device, out, np.uint16, (2, 4, 32, 2))
    row, column = LANES[:, None] // 4, 2 * (LANES[:, None] % 4) + np.arange(2)
    np.testing.assert_array_equal(words[0], x[:, row, column])
    np.testing.assert_array_equal(words[1], x[:, column, row])


def registers(*offsets: int) -> np.ndarray:
    """What the place of a number in a lane's registers adds to its row or column."""
    return np.array(offsets)


def fragments(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What each lane holds, as words: lane by lane, in the order of the registers."""
    return np.ascontiguousarray(matrix[rows, columns]).view(np.uint32)


@pytest.mark.parametrize("kind", ["bf16", "half", "tf32"])
def test_mma_multiplies_fragments(device: Emulator, seeded: np.random.Generator, kind: str) -> None:
    depth = 8 if kind == "tf32" else 16
    shapes = (16, depth), (depth, 8), (16, 8)
    a, b, d = (seeded.normal(size=shape).astype(np.float32) for shape in shapes)
    group, place = LANES[:, None] // 4, LANES[:, None] % 4
    if kind == "tf32":
        left = fragments(a, group + registers(0, 8, 0, 8), place + registers(0, 0, 4, 4))
        right = fragments(b, place + registers(0, 4), group + registers(0, 0))
        a, b = ((x.view(np.uint32) & 0xFFFFE000).view(np.float32) for x in (a, b))
    else:
        bits = [bf16_bits(x) if kind == "bf16" else x.astype(np.float16) for x in (a, b)]
        row, column = registers(0, 0, 8, 8, 0, 0, 8, 8), registers(0, 1, 0, 1, 8, 9, 8, 9)
        left = fragments(bits[0], group + row, 2 * place + column)
        right = fragments(bits[1], 2 * place + registers(0, 1, 8, 9), group + registers(0, 0, 0, 0))
        a, b = (bf16_values(x) if kind == "bf16" else x.astype(np.float32) for x in bits)
    rows, columns = group + registers(0, 0, 8, 8), 2 * place + registers(0, 1, 0, 1)
    out, number = upload(device, d[rows, columns]), ["bf16", "half", "tf32"].index(kind)
    arguments = [upload(device, left), upload(device, right), out, np.int32(number)]
    launch(device, WRAPPERS, "multiply", 32, arguments)
    want = (d + a.astype(float) @ b.astype(float))[rows, columns]
    np.testing.assert_allclose(download(device, out, np.float32, (32, 4)), want, rtol=0, atol=2e-5)
