"""Windows of a product's results, reduced in its kernel: each is neighbouring rows of a tile."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphc.backends.cuda.run import DeviceProgram
from graphc.compiler import compile_graph
from graphc.ir.graph import Node
from graphc.ops import activations, leaves, pooling
from graphc.ops.convolution import conv1d, conv2d, conv3d
from graphc.ops.linear import matmul
from graphc.ops.pooling import lp_pool2d, max_pool2d, mean_pool2d
from graphc.schedule.products import Products
from tests.compiled import with_gradients
from tests.cuda.programs import Feeds, check_on_emulator, compile_with_nvcc, generated

Pool = Callable[[Node], Node]


def layer(
    pool: Pool, image: tuple[int, ...] = (2, 4, 8, 8), channels: int = 12
) -> tuple[list[Node], list[Node]]:
    """A pool of relu(conv(x, w, b)) behind another convolution, with gradients, and the inputs."""
    rank = len(image) - 2
    convolve = {1: conv1d, 2: conv2d, 3: conv3d}[rank]
    x, b = leaves.input("x", image), leaves.input("b", (channels,))
    v = leaves.input("v", (8, image[1], *(3,) * rank))
    w = leaves.input("w", (channels, 8, *(3,) * rank))
    hidden = activations.tanh(convolve(x, v, padding=1))
    out = pool(activations.relu(convolve(hidden, w, b, padding=1)))
    inputs = [x, v, w, b]
    return with_gradients(activations.tanh(out), inputs, np.random.default_rng(1)), inputs


def fed(generator: np.random.Generator, nodes: Sequence[Node]) -> Feeds:
    return {n.label: (generator.normal(size=n.shape) / n.shape[-1]).astype("f4") for n in nodes}


def reduced(program: DeviceProgram) -> list[str]:
    """The kernels that reduce windows of their results."""
    return [n for n, k in program.kernels.items() if "reduces windows of" in k.strategy]


FUSED: list[tuple[str, Pool, tuple[int, ...]]] = [
    ("max", lambda x: max_pool2d(x, 2), (2, 4, 8, 12)),
    ("tiles that overhang", lambda x: max_pool2d(x, 2), (3, 4, 6, 10)),
    ("windows of 2 x 4", lambda x: max_pool2d(x, (2, 4)), (2, 4, 6, 8)),
    ("along one dimension", lambda x: mean_pool2d(x, (1, 2)), (2, 4, 5, 8)),
    ("the root of a sum", lambda x: lp_pool2d(x + 1.0, 2), (2, 4, 8, 8)),
    ("a line", lambda x: pooling.max_pool1d(x, 4), (3, 4, 40)),
    ("a cube", lambda x: pooling.max_pool3d(x, 2), (1, 4, 4, 6, 4)),
]


@pytest.mark.parametrize(("name", "pool", "image"), FUSED, ids=[f[0] for f in FUSED])
def test_windows_within_tiles(
    name: str, pool: Pool, image: tuple[int, ...], seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool, image)
    program = check_on_emulator(outputs, fed(seeded, inputs), [name] * 5)
    assert reduced(program) == ["convolution_forward_2"]
    assert not any("pool" in kernel and "forward" in kernel for kernel in program.kernels)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_same_bits_as_apart(
    precision: str, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in another order are the same sums, and a rounded value is pooled as it was rounded."""
    outputs, inputs = layer(lambda x: max_pool2d(x, 2), (3, 4, 6, 10))
    feeds = fed(seeded, inputs)
    options = {"target": "cuda-emu", "precision": precision}
    together = compile_graph(outputs, **options)
    assert reduced(together) == ["convolution_forward_2"]
    assert "relu" not in {buffer.name for buffer in together.schedule.buffers}
    monkeypatch.setattr(Products, "refusal", lambda *_: "it was asked for")
    apart = compile_graph(outputs, **options)
    assert reduced(apart) == []
    for ours, theirs in zip(together(**feeds), apart(**feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()


ALONE: list[tuple[str, Pool, str]] = [
    ("overlapping", lambda x: max_pool2d(x, 3, stride=2), ""),
    ("windows of 3", lambda x: max_pool2d(x, (1, 3)), "windows of 3 leave some of j over"),
    ("nine", lambda x: max_pool2d(x[:, :, :6, :6] * 1.0, 3), ""),
]


@pytest.mark.parametrize(("name", "pool", "reason"), ALONE, ids=[a[0] for a in ALONE])
def test_other_windows_keep_a_kernel(
    name: str, pool: Pool, reason: str, seeded: np.random.Generator
) -> None:
    outputs, inputs = layer(pool)
    program = check_on_emulator(outputs, fed(seeded, inputs), [name] * 5)
    assert reduced(program) == []
    assert reason in program.kernels["max_pool_forward"].strategy


def test_windows_of_tiles_that_do_not_hold_them(seeded: np.random.Generator) -> None:
    outputs, inputs = layer(lambda x: max_pool2d(x, 3), (1, 4, 6, 6))
    program = check_on_emulator(outputs, fed(seeded, inputs))
    reason = program.kernels["max_pool_forward"].strategy
    assert "windows of 9 do not divide tiles of 64 rows" in reason


def test_depth_in_pieces(seeded: np.random.Generator) -> None:
    """The second kernel adds up the pieces of a whole window before it reduces it."""
    x, w = leaves.input("x", (1, 128, 4, 4)), leaves.input("w", (16, 128, 3, 3))
    y = activations.relu(conv2d(x, w, padding=1))
    for outputs in ([max_pool2d(y, 2) * 2.0], [max_pool2d(y, 2), y]):
        program = check_on_emulator(outputs, fed(seeded, [x, w]))
        [kernel] = program.kernels.values()
        assert "pieces of the depth" in kernel.source
        assert "reduces windows of 2 x 2" in kernel.strategy


def test_what_is_pooled_is_stored_for_others(seeded: np.random.Generator) -> None:
    x, w = leaves.input("x", (2, 4, 8, 8)), leaves.input("w", (12, 4, 3, 3))
    y = activations.relu(conv2d(x, w, padding=1))
    program = check_on_emulator([max_pool2d(y, 2), mean_pool2d(y, 2), y], fed(seeded, [x, w]))
    assert reduced(program) == [*program.kernels] == ["convolution_forward"]


def test_rows_of_a_matrix_product(seeded: np.random.Generator) -> None:
    """Windows along either side of a product of matrices, and within one side alone."""
    a, b = leaves.input("a", (16, 20)), leaves.input("b", (20, 24))
    product = matmul(a, b)
    image = product[None, None]
    for window, kernels in (((2, 1), 1), ((1, 2), 1), ((2, 2), 2)):
        outputs = [max_pool2d(image * 1.0, window)]
        program = check_on_emulator(outputs, fed(seeded, [a, b]))
        assert len(program.kernels) >= kernels


def test_kernels_of_windows_compile_without_spills(tmp_path) -> None:
    outputs, _ = layer(lambda x: max_pool2d(x, 2), (8, 64, 28, 28), 64)
    for precision in ("fp32", "tf32", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        said = compile_with_nvcc(generated(outputs, precision=precision), "sm_80", folder)
        assert "spill" not in said.replace("0 bytes spill", "")
