"""What the generated C is made of: kernels by structure, legal names and literals, fused loops."""

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import graphc as gx
from graphc.autodiff.backward import gradients
from graphc.backends.c.emit import emit
from graphc.backends.c.mapping import BLOCKS, literal
from graphc.compiler import compile_graph
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.types import DType
from graphc.lower.names import RESERVED
from graphc.lower.routines import lower
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from tests.compiled import ROOT, assert_close, check, run_python


def scheduled(*outputs: gx.Node) -> Schedule:
    return make_schedule(run_passes(Graph(outputs)), BLOCKS["avx2"])


def sources(*outputs: gx.Node) -> dict[str, str]:
    schedule = scheduled(*outputs)
    block = BLOCKS["avx2"]
    return {f.name: f.text for f in emit(schedule, lower(schedule, block), block).files}


def kernel(schedule: Schedule, name: str) -> KernelPlan:
    return next(k for k in schedule.kernels if k.name == name)


@op
def my_own_filter(image: Operand, filters: Operand) -> Definition:
    """The equation of a padded convolution under another name."""
    n, k, i, j, c, r, s = axes("n k i j c r s")
    image = image.padded(((0, 0), (0, 0), (1, 1), (1, 1)))
    return define[n, k, i, j](sum_over[c, r, s](image[n, c, i + r, j + s] * filters[k, c, r, s]))


def test_a_users_convolution_gets_the_same_bytes() -> None:
    found = []
    for build in (my_own_filter, lambda x, w: gx.conv2d(x, w, padding=1)):
        x, w = gx.input("x", (2, 3, 16, 16)), gx.parameter("w", (8, 3, 3, 3))
        with gx.layer_scope("layer"):
            out = build(x, w)
        loss = gx.sum(gx.square(out))
        files = sources(loss, *gradients(loss, [w]))
        # The op's name and its line in the user's file stand in comments and local names.
        text = {n: re.sub(r"    from \S+", "", t) for n, t in files.items()}
        text = {n: t.replace("my_own_filter", "convolution") for n, t in text.items()}
        found.append(text)
        forward = kernel(scheduled(loss, *gradients(loss, [w])), "layer_forward")
        assert forward.strategy == "contraction"
    assert found[0] == found[1]


HASHED = """
import hashlib
from tests.nets import NETS
from graphc.backends.c.emit import emit
from graphc.backends.c.mapping import BLOCKS
from graphc.lower.routines import lower
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
for name, net in NETS.items():
    schedule = make_schedule(run_passes(net()), BLOCKS["avx2"])
    text = "".join(f.name + f.text for f in emit(schedule, lower(schedule, BLOCKS["avx2"]),
                                                 BLOCKS["avx2"]).files)
    print(name, hashlib.sha256(text.encode()).hexdigest())
"""


def test_same_source_for_every_hash_seed() -> None:
    assert len({run_python(HASHED, PYTHONHASHSEED=seed) for seed in ("0", "1", "4242")}) == 1


NASTY = [
    "*/ int x; /*", "back\\slash\\", 'quo"te\'s', "new\nline\r\n#error no", '#include "no.h"',
    "??/", "for", "double", "exp", "sum value sum", "sum_value_sum", "SUM.VALUE.SUM", "9lives",
    "große Äpfel", "\N{GREEK SMALL LETTER ALPHA}", "\N{SNOWMAN}", "x" * 10_000, "_", "__",
    "ij", "i", "// no",
    "%s%n", "{{ jinja }}", "{% raw %}", "\0nul", "\u202ertl", "a b", "a_b", "main", "d x", "x_2",
]  # fmt: skip


def test_no_name_reaches_the_source(seeded: np.random.Generator) -> None:
    outputs, feeds = [], {}
    for number, name in enumerate(NASTY):
        x = gx.input(name, (6, 5), "float64")
        p = gx.parameter(f"{name} p", (7, 5), dtype="float64")
        feeds[name] = seeded.normal(size=(6, 5))
        with gx.layer_scope(name):
            y = gx.sum(gx.exp(gx.tanh(x)) + 1.0, 1) if number % 2 else gx.dense(gx.exp(x), p)
        outputs.append(y)
        if number % 2 == 0:
            outputs += gradients(gx.sum(y), [p])
    program = compile_graph(outputs, name=NASTY[0])
    wanted = gx.evaluate(outputs, feeds | program.parameters)
    for got, want in zip(program(**feeds), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    text = "".join(path.read_text(encoding="utf-8") for path in program.folder.rglob("*.[ch]"))
    for part in (
        "int x; /*",
        "\\",
        "#error",
        'include "no',
        "??/",
        "\0",
        "\N{SNOWMAN}",
        "x" * 100,
        "{{",
    ):
        assert part not in text, part
    assert text.isascii()


def test_words_of_the_templates_are_reserved() -> None:
    """Whatever lower-case local the templates and the printer declare, a user's name is not it."""
    texts = [p.read_text() for p in (ROOT / "templates" / "c").glob("*.jinja")]
    texts += [p.read_text() for p in (ROOT / "graphc" / "backends" / "c").glob("*.py")]
    declared = set()
    for text in texts:
        declared |= set(re.findall(r"\blong ([a-z_]\w*) =", text))
        declared |= set(re.findall(r"\*restrict ([a-z_]\w*) =", text))
        declared |= set(re.findall(r"} ([a-z_]\w*) =", text))
    inside_functions = {"a", "b", "k", "q", "r", "depth", "most"}  # of header and micro-kernel
    declared = {name for name in declared if not name.startswith("gc_")}
    assert len(declared) > 20
    assert declared - inside_functions <= RESERVED


@op
def keywords(a: Operand, b: Operand) -> Definition:
    """A product over axes that C has other plans for."""
    out, other, run = axes("for start double")
    return define[out, other](sum_over[run](a[out, run] * b[run, other]))


@op
def shadowed(a: Operand) -> Definition:
    """The summed axis is named as the two others would be when they merge."""
    i, j, ij = axes("i j ij")
    return define[i, j](sum_over[ij](a[i, j, ij]))


@op
def confused(a: Operand) -> Definition:
    """A reserved word beside the name that it would get instead."""
    one, two, three = axes("for for_axis FOR")
    return define[one, two](sum_over[three](a[one, two, three]))


def test_axis_names_of_a_users_op(seeded: np.random.Generator) -> None:
    a, b = gx.input("start", (20, 30), "float64"), gx.input("slot", (30, 40), "float64")
    c = gx.input("ij", (3, 4, 5), "float64")
    feeds = {n.label: seeded.normal(size=n.shape) for n in (a, b, c)}
    product = keywords(a, b)
    check(
        [product, *gradients(gx.sum(gx.square(product)), [a, b]), shadowed(c), confused(c)], feeds
    )


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.1, 1e300, -1e300, 5e-324, 2.2e-308, 1e-45, 3.5e38, 2**53 + 1.0]
SPECIAL += [float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_special_constants(dtype: str) -> None:
    value = np.array([0, -0.0, 1, -2.5, np.inf, -np.inf, np.nan], dtype)
    x = gx.input("x", (7,), dtype)
    with np.errstate(all="ignore"):
        numbers = [np.array(c, np.float64).astype(dtype) for c in SPECIAL]
        outputs = [x + gx.constant(c) for c in numbers] + [x * gx.constant(c) for c in numbers]
        outputs += [gx.maximum(x, gx.constant(c)) for c in numbers]
        wanted = [value + c for c in numbers] + [value * c for c in numbers]
        wanted += [np.where(value > c, value, c) for c in numbers]
    got = compile_graph(outputs)(x=value)
    for number, (ours, want) in enumerate(zip(got[:-15], wanted[:-15], strict=True)):
        np.testing.assert_array_equal(ours, want)
        if (
            number >= 15 or numbers[number] != 0
        ):  # x + 0 is x: the one sign that folding may change is that of -0.0 + 0.0
            np.testing.assert_array_equal(np.signbit(ours[:4]), np.signbit(want[:4]))
    oracle = gx.evaluate(outputs[-15:], {"x": value})
    for ours, want in zip(got[-15:], oracle, strict=True):
        np.testing.assert_array_equal(ours, want)


def test_literals() -> None:
    assert literal(-(2**63), DType.int64) == "(-9223372036854775807 - 1)"
    assert literal(-5, DType.int32) == "(-5)"
    assert literal(1e300, DType.float32) == "INFINITY"
    assert literal(5e-324, DType.float64) == "5e-324"
    assert literal(-0.0, DType.float64) == "(-0.0)"
    x = gx.input("x", (3,), "int64")
    low = np.iinfo(np.int64).min
    (got,) = compile_graph([gx.maximum(x, gx.constant(low, "int64"))])(x=np.array([low, 0, 5]))
    np.testing.assert_array_equal(got, [low, 0, 5])


def test_arithmetic_is_not_simplified_away() -> None:
    """sympy would turn log(exp(x)) into x, x/x into 1 and x - x into 0."""
    x = gx.input("x", (2, 3), "float64")
    turned = gx.transpose(x)
    outputs = [
        gx.log(gx.exp(x)), turned / turned, turned - turned, gx.exp(turned) * gx.exp(-turned),
        gx.sqrt(gx.square(x)), 1.0 / (1.0 / x), gx.constant(0.0, "float64") * x,
    ]  # fmt: skip
    value = np.array([[0.0, 1000.0, np.inf], [-np.inf, np.nan, 1e200]])
    (log, ratio, difference, product, root, inverse, zero) = compile_graph(outputs)(x=value)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(log, np.log(np.exp(value)))
        np.testing.assert_array_equal(ratio, value.T / value.T)
        np.testing.assert_array_equal(difference, value.T - value.T)
        np.testing.assert_array_equal(product, np.exp(value.T) * np.exp(-value.T))
        np.testing.assert_array_equal(root, np.sqrt(value * value))
        np.testing.assert_array_equal(inverse, 1 / (1 / value))
        np.testing.assert_array_equal(zero, 0 * value)


def test_conversions_round_where_they_stand(seeded: np.random.Generator) -> None:
    # Whole vectors only: gcc 12 forgets the float32 in the rest of a loop for AVX-512.
    x = gx.input("x", (4, 8), "float64")
    value = seeded.normal(size=(4, 8)) * 100
    narrow = gx.cast(gx.cast(x, "float32"), "float64") * 2.0
    whole = gx.cast(gx.cast(gx.transpose(x), "int32"), "float64") + 0.5
    truth = gx.cast(gx.cast(x, "bool"), "float64")
    got = compile_graph([narrow, whole, truth])(x=value)
    np.testing.assert_array_equal(got[0], value.astype("float32").astype("float64") * 2)
    np.testing.assert_array_equal(got[1], np.trunc(value.T) + 0.5)
    np.testing.assert_array_equal(got[2], np.ones((4, 8)))


def test_a_graph_without_kernels() -> None:
    x = gx.input("x", (2, 3))
    p = gx.parameter("p", (4,), 1.5)
    flat, same = compile_graph([gx.reshape(x, (6,)), p])(x=np.ones((2, 3), "float32"))
    np.testing.assert_array_equal(flat, np.ones(6))
    np.testing.assert_array_equal(same, np.full(4, 1.5))


MIXED = """
import numpy as np, graphc as gx
from graphc.train.step import training_step
x, y = gx.input("x", (3, 2, 13, 11)), gx.input("y", (3,), "int64")
w, b = gx.parameter("w", (5, 2, 3, 3)), gx.parameter("b", (5,), 0.0)
u, v = gx.parameter("u", (6, 5, 3, 2)), gx.parameter("v", (7, 36))
z = gx.max_pool2d(gx.relu(gx.conv2d(x, w, b, padding=1)), 3, stride=2, padding=1)
z = gx.mean_pool2d(gx.tanh(gx.conv2d(z, u, stride=(2, 1), dilation=(1, 2), padding=2)), 2)
z = gx.flatten(z)
v = gx.parameter("v", (7, z.shape[1]))
loss = gx.cross_entropy(gx.dense(z, v), y)
inverse = gx.sum(gx.conv_transpose2d(x, gx.transpose(w, (1, 0, 2, 3)), stride=2, padding=1))
step = training_step(loss + 1e-3 * inverse, gx.Adam(0.01), metrics=[gx.argmax(gx.dense(z, v), 1)])
data = np.random.default_rng(1)
for _ in range(3):
    out = step(x=data.normal(size=(3, 2, 13, 11)).astype("float32"), y=data.integers(0, 7, 3))
    assert np.isfinite(out[0])
print("done", float(out[0]))
"""


@pytest.mark.parametrize(
    "setting", ["GRAPHC_MARCH=haswell", "GRAPHC_OPENMP=0", "GRAPHC_SANITIZE=undefined"]
)
def test_a_whole_step_under_other_settings(setting: str) -> None:
    name, _, value = setting.partition("=")
    if name == "GRAPHC_MARCH" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor cannot run code for haswell")
    found = float(run_python(MIXED, **{name: value}).split()[-1])
    assert found == pytest.approx(float(run_python(MIXED).split()[-1]), rel=1e-4)


def test_a_whole_step_under_the_address_sanitizer() -> None:
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if "/" not in library:
        pytest.skip("gcc has no libasan.so")
    options = "detect_leaks=0:abort_on_error=0"
    output = run_python(
        MIXED, GRAPHC_SANITIZE="address", LD_PRELOAD=library, ASAN_OPTIONS=options, timeout=300
    )
    assert output.startswith("done")


def test_reshapes_are_never_copied() -> None:
    x = gx.input("x", (4, 6))
    y = gx.reshape(gx.exp(gx.reshape(gx.exp(x), (2, 12))), (3, 8))
    schedule = scheduled(gx.sum(y, 1))
    assert not any("reshape" in n.label for k in schedule.kernels for n in k.nodes)


def convolution_step() -> tuple[gx.Node, list[gx.Node]]:
    x = gx.input("x", (4, 3, 16, 16))
    with gx.layer_scope("conv"):
        w, b = gx.parameter("conv.w", (8, 3, 3, 3)), gx.parameter("conv.b", (8,))
        h = gx.relu(gx.conv2d(x, w, b, padding=1))
    with gx.layer_scope("next"):
        u = gx.parameter("next.u", (8, 8, 3, 3))
        out = gx.conv2d(h, u)
    loss = gx.mean(gx.square(out))
    return loss, gradients(loss, [w, b, u])


def stored_labels(schedule: Schedule) -> Sequence[str]:
    return [node.label for k in schedule.kernels for node in k.stored]


def test_bias_and_relu_are_the_epilogue_of_the_contraction() -> None:
    loss, found = convolution_step()
    schedule = scheduled(loss, *found)
    forward = kernel(schedule, "conv_forward")
    assert forward.strategy == "contraction"
    assert [node.label for node in forward.nodes] == ["convolution", "relu"]
    assert "conv.b" in [operand.label for operand in forward.nodes[1].inputs]
    assert [node.label for node in forward.stored] == ["relu"]
    # The mask of the backward pass is read from relu's output: no pre-activation is kept.
    assert not {"channel_sum"} & set(stored_labels(schedule))


def test_gradient_of_cross_entropy_is_one_kernel() -> None:
    z, y = gx.input("z", (32, 10)), gx.input("y", (32,), "int64")
    loss = gx.cross_entropy(z, y)
    (gradient,) = gradients(loss, [z])
    program = compile_graph([gradient])
    last = list(program.kernels.values())[-1]
    # (p - y)/m with p = exp(z - max)/sum: a map at the end of what the forward pass does to a row.
    assert re.search(
        r"= \(-\(1 if i1 = y\[i0\] else 0\) \+ exp\(\w+\[i0, i1\]\)/sum\[i0, 0\]\)/32", last.formula
    )
    assert [len(k.formulas) for k in program.kernels.values()] == [5]
    logits = np.random.default_rng(2).normal(size=(32, 10)).astype("float32")
    labels = np.arange(32) % 10
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wanted = (p - np.eye(10)[labels]) / 32
    (got,) = program(z=logits, y=labels)
    np.testing.assert_allclose(got, wanted, atol=1e-7)


CHAINS = {
    "maps": lambda y, x: gx.exp(y) * 0.5,
    "turned": lambda y, x: gx.transpose(gx.tanh(y)),
    "reductions": lambda y, x: gx.matmul(y, x),
    "reshapes": lambda y, x: gx.reshape(gx.transpose(y), (2, 8) if y.shape[0] == 4 else (4, 4)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_ten_thousand_nodes(kind: str) -> None:
    x = y = gx.input("x", (4, 4))
    count = 10_000 if kind == "reductions" else 5_000
    for _ in range(count):
        y = CHAINS[kind](y, x)
    started = time.process_time()
    scheduled(y)
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("channels", "filters", "window", "settings"),
    [
        (64, 64, 3, {"padding": 1, "groups": 64}),  # a table of filters, a lane a channel
        (128, 128, 3, {"padding": 1, "groups": 128}),  # taps within the sums of filter gradients
        (128, 128, 2, {"padding": 1, "groups": 128, "dilation": 2}),
        (64, 64, 3, {"padding": 1, "groups": 2}),  # blocks seen through a reshape
        (32, 32, 3, {"padding": 1, "stride": 2}),  # blocks of the depth that are skipped
        (32, 32, 3, {"padding": 2, "dilation": 2}),
        (3, 32, 7, {"padding": 3, "stride": 2}),  # few rows: vectors along the depth
        (3, 32, 3, {"padding": 1}),
    ],
)
def test_convolutions_between_layers(
    channels: int, filters: int, window: int, settings: dict[str, int],
    seeded: np.random.Generator,
) -> None:  # fmt: skip
    """Their arrays lie in blocks of channels; images and weights do not."""
    images = gx.input("x", (2, channels, 12, 14))
    w = gx.parameter("w", (filters, channels // settings.get("groups", 1), window, window))
    x = gx.relu(images)
    y = gx.relu(gx.conv2d(x, w, **settings))
    weights = gx.constant(seeded.normal(size=y.shape), "float32")
    outputs = [y, *gradients(gx.sum(y * weights), [images, w])]
    sample = {n.label: seeded.normal(size=n.shape).astype("float32") for n in (images, w)}
    program = compile_graph(outputs, parameters={"w": sample["w"]})
    for got, want in zip(program(x=sample["x"]), evaluate(outputs, sample), strict=True):
        assert_close(got, want, 2e-6)
    layouts = [buffer.layout for buffer in program.schedule.buffers]
    assert channels == 3 or any(layout.lanes is not None for layout in layouts)
