"""Few channels: padded with zeros to a power of two, so that a pixel is one copy."""

import re

import numpy as np
import pytest
import sympy

import graphc as gx
from graphc.autodiff.backward import gradients
from graphc.backends.cuda.fault import KernelFault
from graphc.backends.cuda.run import DeviceProgram
from graphc.ir.graph import Node
from graphc.ir.layout import blocked, layout_text, padded, reshaped
from graphc.lower import grid
from graphc.ops import activations, elementwise, leaves, linear, reductions, shape
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.ops.pooling import max_pool2d
from graphc.schedule.channels import few_channels
from tests.compiled import with_gradients
from tests.cuda.programs import SEEDS, check_on_emulator, emulator, generated

# Channels, and what becomes of them in 16 bits.
CHANNELS = [(1, None), (2, None), (3, 4), (4, None), (5, 8), (6, 8), (7, 8), (9, None)]


def paddings(program: DeviceProgram) -> dict[str, tuple[int, int]]:
    """The arrays with zeros beside one dimension, which it is, and its places."""
    buffers = program.schedule.buffers
    return {b.name: b.layout.padding for b in buffers if b.layout.padding is not None}


def convolved(
    generator: np.random.Generator, x_shape: tuple[int, ...], w_shape: tuple[int, ...], **how: int
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """A convolution with both gradients, and what it is fed."""
    convolution = {3: conv1d, 4: conv2d, 5: conv3d}[len(x_shape)]
    x, w = leaves.input("x", x_shape), leaves.input("w", w_shape)
    feeds = {n.label: generator.normal(size=n.shape).astype("f4") for n in (x, w)}
    return with_gradients(convolution(x, w, **how), [x, w], generator), feeds


def test_zeros_beside_a_dimension_lie_in_memory() -> None:
    layout = padded((2, 3, 5), 1, 4)
    assert (layout.size, layout.padding, layout.lanes) == (40, (1, 4), None)
    assert layout_text(layout) == "dimension 1 runs fastest, 3 padded to 4"
    assert reshaped(layout, (2, 3, 5)) == layout
    assert reshaped(layout, (2, 15)) is None
    assert blocked((2, 3, 5), 1, 3).padding is None


@pytest.mark.parametrize(
    ("channels", "places", "arch"),
    [*((*case, "sm_80") for case in CHANNELS), (3, 4, "sm_90a"), (6, 8, "sm_90a")],
)
def test_few_channels_of_16_bits(
    channels: int, places: int | None, arch: str, seeded: np.random.Generator
) -> None:
    case = convolved(seeded, (2, channels, 9, 11), (8, channels, 3, 3), padding=1)
    program = check_on_emulator(*case, precision="bf16", arch=arch)
    both = {"bfloat16 of x", "bfloat16 of w"}
    assert paddings(program) == (dict.fromkeys(both, (1, places)) if places else {})
    if places:
        forward = program.kernels["convolution_forward"].source
        assert f"gc_cp_async{2 * places}(rows_tile" in forward
        assert f"gc_cp_async{2 * places}(columns_tile" in forward
        assert "(gc_bf16 *)(rows_tile" not in forward
        reasons = [k.reason for k in program.schedule.kernels if few_channels(k)]
        assert len(reasons) == 2
        assert all(f"; {channels} channels padded to {places}, " in text for text in reasons)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "how"),
    [
        ((3, 3, 33), (8, 3, 5), {"padding": 2}),
        ((2, 3, 5, 6, 7), (9, 3, 3, 2, 3), {"padding": 1}),
        ((2, 3, 21, 23), (10, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((2, 5, 13, 12), (8, 5, 3, 3), {"stride": 3, "dilation": 2, "padding": 1}),
        ((1, 6, 40, 30), (8, 3, 3, 3), {"groups": 2}),
    ],
)
def test_windows_of_all_kinds(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], how: dict[str, int],
    seeded: np.random.Generator,
) -> None:  # fmt: skip
    program = check_on_emulator(*convolved(seeded, x_shape, w_shape, **how), precision="fp16")
    where = 2 if "groups" in how else 1, 4 if w_shape[1] < 5 else 8
    assert set(paddings(program).values()) == {where}


def test_the_first_layer_of_vgg16_at_its_real_size() -> None:
    x, w = leaves.input("x", (64, 3, 224, 224)), leaves.parameter("w", (64, 3, 3, 3))
    out = activations.relu(conv2d(x, w, padding=1))
    loss = reductions.mean(elementwise.square(out))
    emitted = generated([loss, *gradients(loss, [w])], precision="bf16")
    texts = {file.name: file.text for file in emitted.files}
    forward, gradient = texts["convolution_forward.cu"], texts["d_w.cu"]
    assert "K 36 by tiles of 128 x 64 x 64:" in forward
    assert "STAGES = 2;" in forward
    assert "for (int k = 0; k < 48; k += 16)" in forward
    assert forward.count("gc_cp_async8(") == 2
    assert "N 36, K 3211264 by tiles of 64 x 64 x 64 in 128 pieces of the depth" in gradient
    assert "? bfloat16_of_x + columns_own_0 + 4*columns_depth" in gradient
    assert "gc_store_lanes(bfloat16_of_x + 200704*" in "".join(texts.values())


def test_pools_of_the_first_layer_stay_in_its_kernel(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (2, 3, 16, 16)), leaves.input("w", (8, 3, 3, 3))
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, w)}
    out = max_pool2d(activations.relu(conv2d(x, w, padding=1)), 2)
    program = check_on_emulator([out], feeds, precision="bf16")
    reason = program.schedule.kernels[-1].reason
    assert "3 channels padded to 4" in reason
    assert "reduces windows of 2 x 2" in reason


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_three_channels_of_32_bits_are_a_copy_of_16_bytes(
    precision: str, seeded: np.random.Generator
) -> None:
    """The filters are the user's array: what lies beside their channels is not read."""
    x, w = leaves.input("x", (2, 3, 12, 10)), leaves.input("w", (8, 3, 3, 3))
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, w)}
    out = conv2d(activations.relu(x), w, padding=1)
    program = check_on_emulator(with_gradients(out, [x, w], seeded), feeds, precision=precision)
    assert paddings(program) == {"relu": (1, 4)}
    sources = {name: kernel.source for name, kernel in program.kernels.items()}
    assert re.search(r"gc_cp_async16\(.* \? relu \+", sources["convolution_forward"])
    assert re.search(r"c < 3.*\n +gc_cp_async4\(.* w \+", sources["convolution_forward"])
    assert "if (c < 3) {" in sources["d_w"]


def test_values_that_are_not_finite_stay_where_they_are(seeded: np.random.Generator) -> None:
    """Zeros beside infinite channels meet zeros, so no other pixel becomes NaN."""
    outputs, feeds = convolved(seeded, (2, 3, 8, 8), (8, 3, 3, 3), padding=1)
    feeds["x"][0, 1, 3, 4] = np.inf
    feeds["w"][2, 1, 0, 0] = np.inf
    program = gx.compile(outputs[:1], target="cuda-emu", precision="bf16")
    x, w = (gx.input(name, feeds[name].shape) for name in ("x", "w"))
    exact = gx.compile([gx.conv2d(x, w, padding=1)])(**feeds)[0]
    for seed in SEEDS:
        emulator().seed = seed
        [got] = program(**feeds)
        assert np.array_equal(np.isfinite(got), np.isfinite(exact))
        assert not np.isfinite(got[:, 2]).any()
    assert 0 < np.isfinite(got[:, 0]).sum() < got[:, 0].size


def test_who_else_reads_padded_channels(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (2, 3, 8, 10)), leaves.input("w", (8, 3, 3, 3))
    hidden = activations.tanh(x)
    outputs = [
        conv2d(hidden, w, padding=1), reductions.sum(hidden, axis=(2, 3)), max_pool2d(hidden, 2),
        shape.transpose(hidden),
    ]  # fmt: skip
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, w)}
    program = check_on_emulator(outputs, feeds)
    assert paddings(program) == {"tanh": (1, 4)}


@op
def of_logarithms(x: Operand, w: Operand) -> Definition:
    """out[n,k,i] = sum over c, r of log(x[n,c,i+r])*w[k,c,r]: a factor that is not 0 where x is."""
    n, k, i, c, r = axes("n k i c r")
    return define[n, k, i](sum_over[c, r](sympy.log(x[n, c, i + r]) * w[k, c, r]))


def test_factors_that_are_not_zero_beside_channels(seeded: np.random.Generator) -> None:
    """The channels of x are padded for one kernel, and another takes logarithms of them."""
    x, w, v = (
        leaves.input(name, e) for name, e in (("x", (2, 3, 20)), ("w", (8, 3, 5)), ("v", (3, 9)))
    )
    positive = elementwise.exp(x)
    outputs = [
        conv1d(positive, w), of_logarithms(positive, w), linear.einsum("nci,ck->nik", positive, v),
    ]  # fmt: skip
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, w, v)}
    program = check_on_emulator(outputs, feeds)
    assert paddings(program) == {"exp": (1, 4)}
    padded_sums = [name for name, k in program.kernels.items() if "K 20" in k.source]
    assert padded_sums == ["convolution_forward"]


def test_what_is_not_padded_and_why(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (2, 3, 8, 8))
    u, v = leaves.input("u", (3, 3, 3, 3)), leaves.input("v", (8, 3, 3, 3))
    flat = leaves.input("flat", (2 * 3 * 8 * 8, 5))
    between = conv2d(x, u, padding=1)
    mapped = activations.tanh(x)
    outputs = [
        conv2d(between, v, padding=1), conv2d(mapped, u), shape.reshape(mapped, (1, 384)) @ flat,
    ]  # fmt: skip
    feeds = {n.label: seeded.normal(size=n.shape).astype("f4") for n in (x, u, v, flat)}
    program = check_on_emulator(outputs, feeds)
    assert not paddings(program)
    said = "\n".join(kernel.reason for kernel in program.schedule.kernels)
    assert "; 3 channels as they are: they are fed so" in said
    assert "; 3 channels as they are: convolution_forward writes no zeros beside them" in said
    assert "; 3 channels as they are: they are also seen in another shape" in said


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_copies_of_filters_keep_their_zeros(precision: str, seeded: np.random.Generator) -> None:
    """The copy's first kernel writes them; updates, with the gradient or after it, leave them."""
    x, w = gx.input("x", (4, 3, 10, 10)), gx.parameter("w", (8, 3, 3, 3))
    v = gx.parameter("v", (8, 8, 3, 3))
    loss = gx.mean(gx.square(gx.conv2d(gx.relu(gx.conv2d(x, w, padding=1)), v)))
    losses = {}
    for target in ("c", "cuda-emu"):
        step = gx.training_step(loss, gx.SGD(lr=0.05), target=target, precision=precision, seed=4)
        feeds = {"x": np.random.default_rng(5).normal(size=x.shape).astype("f4")}
        losses[target] = [float(step(**feeds)[0]) for _ in range(4)]
    assert np.allclose(losses["c"], losses["cuda-emu"], rtol=2e-2)
    assert losses["cuda-emu"][-1] < losses["cuda-emu"][0]
    program = step.program
    assert isinstance(program, DeviceProgram)
    [number] = [
        n for n, b in enumerate(program.schedule.buffers)
        if b.storage == "persistent" and b.layout.padding is not None
    ]  # fmt: skip
    held = np.empty((8, 3, 3, 4), program.schedule.buffers[number].dtype.numpy)
    emulator().copy_from(program._memories[number], held.reshape(-1))
    assert not held[..., 3].any()
    written = np.asarray(program.parameters["w"]).transpose(0, 2, 3, 1)
    assert np.array_equal(held[..., :3], written.astype(held.dtype))


def test_zeros_that_nobody_writes_are_noticed(
    monkeypatch: pytest.MonkeyPatch, seeded: np.random.Generator
) -> None:
    monkeypatch.setattr(grid, "_padded", lambda group: {})
    case = convolved(seeded, (2, 3, 9, 11), (8, 3, 3, 3), padding=1)
    with pytest.raises(KernelFault, match="which nothing has written"):
        check_on_emulator(*case, precision="bf16")
