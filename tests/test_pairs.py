"""Contractions of bfloat16 factors by pairs: with the processor's instruction and without it."""

import itertools

import numpy as np
import pytest

import graphc as gx
from graphc.backends.c.mapping import BLOCKS
from graphc.backends.c.toolchain import find_toolchain
from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph, Node
from graphc.ir.types import DType
from graphc.schedule.plan import make_schedule
from tests.compiled import distance, with_gradients

BF16 = DType.bfloat16
TOLERANCE = 3e-3  # one rounding of a result, and sums in another order


@pytest.fixture(params=["instruction", "portable"])
def pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs by the processor's instruction, or as the header spells it out without one."""
    if request.param == "instruction":
        if find_toolchain().simd != "avx512_bf16":
            pytest.skip("this processor, or its compiler, has no AVX512-BF16")
        return
    monkeypatch.setenv("GRAPHC_MARCH", "skylake-avx512")
    if find_toolchain().missing:
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setitem(BLOCKS, find_toolchain().simd, BLOCKS["avx512_bf16"])


def fed(generator: np.random.Generator, *nodes: Node) -> dict[str, np.ndarray]:
    return {n.label: generator.normal(size=n.shape).astype(n.dtype.numpy) for n in nodes}


def compare(outputs: list[Node], feeds: dict[str, np.ndarray]) -> list[str]:
    """Every output close to the oracle's; the sources of the contractions."""
    program = compile_graph(outputs, exact=True)
    wanted = evaluate(outputs, feeds)
    for number, (got, want) in enumerate(zip(program(**feeds), wanted, strict=True)):
        assert distance(got, want) < TOLERANCE, f"output {number} of {program.folder}"
    kernels = [k for k in program.kernels.values() if k.strategy.startswith("contraction")]
    return [kernel.source for kernel in kernels]


# Odd and even depth, around multiples of the register block, in one block of depth and several;
# the last ones' rows are fetched ahead.
PRODUCTS = [
    (4, 4, 8), (5, 7, 9), (9, 13, 33), (16, 32, 32), (17, 769, 31), (3, 64, 100), (8, 1600, 16),
    (33, 64, 64), (515, 5, 65), (64, 1000, 97), (70, 512, 130), (150, 1001, 260),
]  # fmt: skip


@pytest.mark.usefixtures("pairs")
def test_products_in_every_layout(seeded: np.random.Generator) -> None:
    outputs, inputs = [], []
    for m, k, n in PRODUCTS:
        for turned in itertools.product((False, True), repeat=2):
            name = f"{m} {k} {n} {turned}"
            a = gx.input(f"a {name}", (k, m) if turned[0] else (m, k), BF16)
            b = gx.input(f"b {name}", (n, k) if turned[1] else (k, n), BF16)
            left, right = (gx.transpose(v) if t else v for v, t in zip((a, b), turned, strict=True))
            outputs.append(gx.matmul(left, right))
            inputs += [a, b]
    sources = compare(outputs, fed(seeded, *inputs))
    whole = [text for text in sources if "total(vector v)" not in text]  # few rows go another way
    assert all("gc_dot_bf16" in text for text in whole) and len(whole) > 30
    assert sum("ahead += 2 * FETCHED" in text for text in sources) == 4


@pytest.mark.usefixtures("pairs")
def test_convolutions_and_their_gradients(seeded: np.random.Generator) -> None:
    outputs, inputs = [], []
    for size, window, settings in [
        (9, 3, {"padding": 1}), (7, 1, {}), (11, 3, {"stride": 2, "padding": 1}),
        (9, 3, {"dilation": 2}), (7, 3, {"groups": 2, "padding": 1}), (13, 7, {"padding": 3}),
    ]:  # fmt: skip
        name = f"{size} {window} {settings}"
        x = gx.input(f"x {name}", (3, 16, size, size), BF16)
        w = gx.input(f"w {name}", (24, 16 // settings.get("groups", 1), window, window), BF16)
        outputs += with_gradients(gx.conv2d(x, w, **settings), [x, w], seeded)
        inputs += [x, w]
    sources = compare(outputs, fed(seeded, *inputs))
    assert sum("gc_dot_bf16" in text for text in sources) > 10


@pytest.mark.usefixtures("pairs")
def test_batches_and_pieces(seeded: np.random.Generator) -> None:
    a, b = gx.input("a", (5, 9, 300), BF16), gx.input("b", (5, 300, 40), BF16)
    c, d = gx.input("c", (64, 40, 300), BF16), gx.input("d", (64, 40, 300), BF16)
    outputs = [gx.matmul(a, b), gx.einsum("nir,njr->ij", c, d)]
    sources = compare(outputs, fed(seeded, a, b, c, d))
    assert all("gc_dot_bf16" in text for text in sources)
    assert any("PIECES = 16" in text for text in sources)


def test_other_factors_are_multiplied_in_float32(seeded: np.random.Generator) -> None:
    """A factor that is computed, or of another type, is no plain bfloat16 number."""
    x, w = gx.input("x", (16, 32), BF16), gx.input("w", (32, 24), BF16)
    g, h = gx.input("g", (16, 32), "float16"), gx.input("h", (32, 24), "float16")
    wide = gx.matmul(gx.cast(x, "float32"), gx.input("v", (32, 24)))
    program = compile_graph([gx.einsum("ik,kj,k->ij", x, w, gx.input("s", (32,), BF16)),
                             gx.matmul(g, h), wide])  # fmt: skip
    assert len(program.kernels) == 3
    assert not any("gc_dot_bf16" in kernel.source for kernel in program.kernels.values())


def test_short_windows_say_why_their_products_are_wide() -> None:
    """The plain sum by pairs is faster where tiles save little; else the reason has the bound."""
    reasons = {}
    for size in (4, 32):
        x, w = gx.input("x", (4, 64, size, size), BF16), gx.input("w", (64, 64, 3, 3), BF16)
        graph = Graph((gx.conv2d(x, w, padding=1),))
        (kernel,) = make_schedule(graph, BLOCKS["avx512_bf16"]).kernels
        reasons[size] = (kernel.strategy, kernel.reason)
    assert reasons[4][0] == "contraction"
    assert reasons[32][0] == "tiles"
    assert reasons[32][1].endswith("; products in float32: bfloat16 ones might err by 1.4e-02")


def test_bits_do_not_depend_on_threads(seeded: np.random.Generator) -> None:
    a, b = gx.input("a", (300, 700), BF16), gx.input("b", (500, 700), BF16)
    feeds = fed(seeded, a, b)
    out = gx.matmul(a, gx.transpose(b))
    found = {compile_graph([out], threads=n)(**feeds)[0].tobytes() for n in (1, 2, 3, 4)}
    assert len(found) == 1
