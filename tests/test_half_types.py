"""The 16-bit types: conversions bit by bit, where values are rounded, which arrays are taken."""

import numpy as np
import pytest

import graphc as gx
from graphc.compiler import compile_graph
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.types import DType
from graphc.passes.pipeline import run_passes
from graphc.train.step import training_step
from tests.compiled import check, distance

NAMES = ["bfloat16", "float16"]


def every_value(name: str) -> np.ndarray:
    """All 65,536 bit patterns: subnormal numbers, infinities, NaN of every payload."""
    return np.arange(1 << 16, dtype=np.uint16).view(DType(name).numpy)


def same_numbers(got: np.ndarray, want: np.ndarray) -> None:
    got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_array_equal(got, want)  # NaN where NaN is wanted
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


@pytest.mark.parametrize("name", NAMES)
def test_every_value_becomes_a_float(name: str) -> None:
    x = gx.input("x", (1 << 16,), name)
    (got,) = compile_graph([gx.cast(x, "float32")])(x=every_value(name))
    same_numbers(got, every_value(name).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_every_value_becomes_a_float_in_vectors(name: str) -> None:
    """A product with a float32 matrix of ones packs its factor by whole vectors."""
    value = every_value(name)
    value = np.where(np.isfinite(value.astype(np.float32)), value, np.zeros((), value.dtype))
    one = np.eye(64, dtype=np.float32)
    a, b = gx.input("a", (1024, 64), name), gx.input("b", (64, 64))
    program = compile_graph([gx.matmul(gx.cast(a, "float32"), b)])
    array = value.reshape(1024, 64)
    np.testing.assert_array_equal(program(a=array, b=one)[0], array.astype(np.float32))
    sources = [kernel.source for kernel in program.kernels.values()]
    assert any(f"= load_{'bf16' if name == 'bfloat16' else 'f16'}(" in text for text in sources)


@pytest.mark.parametrize("name", NAMES)
def test_rounding_is_to_nearest_even(name: str, seeded: np.random.Generator) -> None:
    kept = every_value(name).astype(np.float32)
    kept = np.sort(kept[np.isfinite(kept)])
    middles = ((kept[1:].astype(np.float64) + kept[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    bits = seeded.integers(0, 1 << 32, 100_000, np.uint32).view(np.float32)
    value = np.concatenate([kept, middles, *near, bits, np.float32([np.inf, -np.inf, np.nan])])
    x = gx.input("x", value.shape)
    (got,) = compile_graph([gx.cast(x, name)])(x=value)
    with np.errstate(all="ignore"):
        same_numbers(got, value.astype(got.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_fusion_keeps_the_rounding(name: str, seeded: np.random.Generator) -> None:
    """A value that never leaves its kernel is rounded as if it were stored."""
    x = gx.input("x", (40, 50))
    short = gx.cast(gx.exp(x), name)
    wide = gx.cast(short, "float32")
    value = seeded.normal(size=x.shape).astype(np.float32)
    fused = compile_graph([wide * 3.0])
    assert len(fused.kernels) == 1
    (got,) = fused(x=value)
    (kept, stored) = compile_graph([wide * 3.0, short])(x=value)
    np.testing.assert_array_equal(got, kept)
    np.testing.assert_array_equal(got, stored.astype(np.float32) * np.float32(3))
    assert distance(got, 3 * np.exp(value)) > 1e-4


def test_constants_round_before_they_are_folded() -> None:
    tenth = gx.cast(gx.constant(0.1, "float32") * 1.0, "bfloat16")
    x = gx.input("x", (4,), "bfloat16")
    wide = gx.cast(x, "float32") + gx.cast(tenth, "float32")
    (got,) = compile_graph([wide])(x=np.zeros(4, DType.bfloat16.numpy))
    np.testing.assert_array_equal(got, np.float32(0.10009765625))
    np.testing.assert_array_equal(evaluate([wide], {"x": np.zeros(4)})[0], got)


def test_partial_sums_stay_wide(seeded: np.random.Generator) -> None:
    x = gx.input("x", (100_000,), "bfloat16")
    total = gx.sum(x)
    partial = [n for n in run_passes(Graph((total,))).nodes if "partial" in n.label]
    assert [n.dtype for n in partial] == [DType.float32]
    check([total, gx.mean(x)], {"x": np.ones(x.shape, DType.bfloat16.numpy)})


def test_gradients_flow_through_casts(seeded: np.random.Generator) -> None:
    x, w = gx.input("x", (8, 12)), gx.parameter("w", (16, 12))
    y = gx.dense(gx.cast(x, "bfloat16"), gx.cast(w, "bfloat16"))
    loss = gx.mean(gx.square(gx.cast(y, "float32")))
    dw, dx = gx.gradients(loss, [w, x])
    assert dw.dtype is dx.dtype is DType.float32
    program = compile_graph([loss, dw, dx])
    feeds = {"x": seeded.normal(size=x.shape).astype(np.float32)}
    found = program(**feeds)
    wanted = evaluate([loss, dw, dx], feeds | program.parameters, float_dtype="float64")
    assert all(distance(a, b) < 1e-2 for a, b in zip(found, wanted, strict=True))


def test_parameters_states_and_updates_of_16_bits(seeded: np.random.Generator) -> None:
    x, y = gx.input("x", (32, 20), "bfloat16"), gx.input("y", (32,), "int64")
    w = gx.parameter("w", (10, 20), dtype="bfloat16")
    step = training_step(gx.cross_entropy(gx.dense(x, w), y), gx.SGD(0.5, momentum=0.5))
    assert step.parameters["w"].dtype == DType.bfloat16.numpy
    assert step.learning_rate == 0.5
    array = seeded.normal(size=x.shape).astype(DType.bfloat16.numpy)
    labels = np.arange(32) % 10
    losses = [float(step(x=array, y=labels)[0]) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_leaves_take_arrays_of_the_type(name: str) -> None:
    array = np.array([[1.0, 2.5]], DType(name).numpy)
    assert gx.constant(array).dtype is DType(name)
    assert gx.constant([0.1], name) is gx.constant(np.array([0.1], DType(name).numpy))
    x = gx.input("x", (1, 2), name)
    assert (x + array).dtype is DType(name)
    w = gx.parameter("w", (1, 2), array, name)
    (got,) = compile_graph([x * w])(x=array)
    np.testing.assert_array_equal(got, array * array)


def test_floats_are_not_taken_for_16_bits() -> None:
    x = gx.input("x", (3,), "bfloat16")
    program = compile_graph([x + 1.0])
    with pytest.raises(UserError, match=r"convert it: array.astype\('bfloat16'\)"):
        program(x=np.zeros(3, np.float32))
    np.testing.assert_array_equal(program(x=np.zeros(3, np.float32).astype("bfloat16"))[0], 1)


def test_types_do_not_mix_by_themselves() -> None:
    x, y = gx.input("x", (3,), "bfloat16"), gx.input("y", (3,), "float16")
    with pytest.raises(UserError, match="different element types"):
        _ = x + y
    with pytest.raises(UserError, match="different floating types"):
        gx.matmul(x, gx.input("z", (3, 4)))
