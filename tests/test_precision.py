"""Mixed precision: which values are stored in 16 bits, their accuracy, loss scaling."""

from collections.abc import Sequence

import numpy as np
import pytest

import graphc as gx
from graphc.compiler import compile_graph
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Assignment, Graph, Node
from graphc.ir.schedule import Schedule
from graphc.ir.types import DType, element_count
from graphc.ops.define import axes, define, op, sum_over
from graphc.passes.classify import contraction_factors
from graphc.passes.pipeline import run_passes
from graphc.train import scaling
from graphc.train.step import TrainingStep, training_assignments, training_step
from tests.compiled import distance, run_python

Batches = list[tuple[np.ndarray, np.ndarray]]


def narrow_vgg(batch: int = 16, **options: object) -> tuple[Node, tuple[int, ...]]:
    model = gx.models.vgg11(image=32, width=0.25, head=64, dropout=0.0, **options)
    x, y = gx.input("x", model.input_shape(batch)), gx.input("y", (batch,), "int64")
    return gx.cross_entropy(model(x, training=True), y), x.shape


def batches(generator: np.random.Generator, shape: tuple[int, ...], count: int) -> Batches:
    return [
        (generator.normal(size=shape).astype(np.float32), generator.integers(0, 1000, shape[0]))
        for _ in range(count)
    ]


def losses(precision: str, feeds: Batches, **options: object) -> list[float]:
    loss, _ = narrow_vgg()
    step = training_step(loss, gx.SGD(0.002, momentum=0.9), precision=precision, **options)
    return [float(step(x=x, y=y)[0]) for x, y in feeds]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_narrow_vgg_trains_like_float32(precision: str, seeded: np.random.Generator) -> None:
    feeds = batches(seeded, narrow_vgg()[1], 5) * 2
    exact, mixed = losses("fp32", feeds), losses(precision, feeds)
    assert exact[-1] < 0.7 * exact[0], exact
    np.testing.assert_allclose(mixed, exact, rtol=2e-2)
    assert mixed != exact


def schedule_of(loss: Node, precision: str, optimizer: gx.Optimizer | None = None) -> Schedule:
    return training_step(loss, optimizer or gx.SGD(0.1, 0.9), precision=precision).program.schedule


@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_lies_between_kernels_is_narrow(batch_norm: bool) -> None:
    schedule = schedule_of(narrow_vgg(batch_norm=batch_norm)[0], "bf16")
    large = 4000  # elements; the logits' (16, 1000) gradient and all maps are above
    for buffer in schedule.buffers:
        if buffer.storage == "persistent":
            assert buffer.dtype in (DType.float32, DType.int64)
        elif buffer.storage == "arena" and element_count(buffer.shape) > large:
            softmax = buffer.node.layer == "loss"
            assert buffer.dtype in (DType.bfloat16, DType.uint8) or softmax, buffer.node
    factors = [
        (node, operand)
        for node in schedule.graph.nodes
        if node.equation is not None and contraction_factors(node.equation) is not None
        for operand in node.inputs
    ]
    assert len(factors) > 40
    assert all(operand.dtype is DType.bfloat16 for _, operand in factors)


def test_sums_statistics_and_weight_gradients_stay_wide() -> None:
    schedule = schedule_of(narrow_vgg(batch_norm=True)[0], "bf16")
    for node in schedule.graph.nodes:
        if node.equation is None or node.dtype is not DType.bfloat16:
            continue
        assert node.equation.reduction != "sum" or contraction_factors(node.equation), node
        assert not node.label.startswith("d ") or ".weight" not in node.label, node
    assigned = [assignment.value for assignment in schedule.graph.assignments]
    assert len(assigned) > 40
    assert all(node.dtype in (DType.float32, DType.int64) for node in assigned)


@op
def my_convolution(x, w):
    """A convolution under another name."""
    n, k, i, j, c, r, s = axes("n k i j c r s")
    padded = x.padded(((0, 0), (0, 0), (1, 1), (1, 1)))
    return define[n, k, i, j](sum_over[c, r, s](padded[n, c, i + r, j + s] * w[k, c, r, s]))


def test_no_name_decides() -> None:
    def kernels(convolve: object) -> list[str]:
        x = gx.input("x", (2, 16, 12, 12))
        w = gx.parameter("w", (32, 16, 3, 3))
        loss = gx.mean(gx.square(gx.tanh(convolve(gx.tanh(x), w))))
        program = training_step(loss, gx.SGD(0.1), precision="bf16").program
        return [
            "\n".join(t for t in k.source.splitlines() if not t.lstrip().startswith("//"))
            .replace("my_convolution", "convolution")
            for k in program.kernels.values()
        ]  # fmt: skip

    assert kernels(my_convolution) == kernels(lambda x, w: gx.conv2d(x, w, padding=1))


def attention(generator: np.random.Generator) -> tuple[list[Node], dict[str, np.ndarray]]:
    q, k, v = (gx.input(name, (3, 24, 32)) for name in "qkv")
    weights = gx.softmax(gx.einsum("bid,bjd->bij", q, k) * 0.2, axis=-1)
    out = gx.matmul(weights, v)
    loss = gx.mean(gx.square(out))
    outputs = [out, *gx.gradients(loss, [q, k, v])]
    return outputs, {n.label: generator.normal(size=n.shape).astype("float32") for n in (q, k, v)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_kernels_agree_with_the_oracle(precision: str, seeded: np.random.Generator) -> None:
    """The rounded graph means the same to the oracle and in C; both are close to float64."""
    outputs, feeds = attention(seeded)
    program = compile_graph(outputs, precision=precision)
    found = program(**feeds)
    assert all(array.dtype == np.float32 for array in found)
    kind = {"bf16": DType.bfloat16, "fp16": DType.float16}[precision]
    rounded = run_passes(Graph(tuple(outputs)), kind).outputs
    same, exact = evaluate(rounded, feeds), evaluate(outputs, feeds, float_dtype="float64")
    for got, alike, want in zip(found, same, exact, strict=True):
        assert distance(got, alike) < 1e-3
        assert 1e-6 < distance(got, want) < 1e-2


def test_softmax_is_computed_in_float32() -> None:
    q, k = (gx.input(name, (3, 24, 32)) for name in "qk")
    p = gx.softmax(gx.einsum("bid,bjd->bij", q, k), axis=-1)
    out = gx.matmul(p, gx.input("v", (3, 24, 16)))
    graph = run_passes(Graph((out,)), DType.bfloat16)
    kinds = {node.label: node.dtype for node in graph.nodes if node.equation is not None}
    assert kinds["sum"] is DType.float32
    assert kinds["divide"] is DType.bfloat16  # what the second product reads
    wide = [n for n in graph.nodes if n.equation is not None and n.dtype is DType.float32]
    assert any("exp" in str(n.op_equation().body) for n in wide)


def test_a_value_that_is_read_and_returned_is_copied(seeded: np.random.Generator) -> None:
    x, w, v = gx.input("x", (16, 32)), gx.input("w", (24, 32)), gx.input("v", (8, 24))
    hidden = gx.tanh(gx.dense(x, w))
    outputs = [hidden, gx.dense(hidden, v)]
    feeds = {n.label: seeded.normal(size=n.shape).astype("float32") for n in (x, w, v)}
    got, _ = compile_graph(outputs, precision="bf16")(**feeds)
    assert got.dtype == np.float32
    assert not np.array_equal(got, got.astype(DType.bfloat16.numpy).astype(np.float32))


def test_float64_is_left_alone(seeded: np.random.Generator) -> None:
    x, w = gx.input("x", (16, 32), "float64"), gx.input("w", (24, 32), "float64")
    feeds = {n.label: seeded.normal(size=n.shape) for n in (x, w)}
    (got,) = compile_graph([gx.dense(x, w)], precision="bf16")(**feeds)
    assert distance(got, feeds["x"] @ feeds["w"].T) < 1e-14


TRAINING = """
import hashlib, numpy as np, graphc as gx
model = gx.models.vgg11(image=32, width=0.25, head=64, classes=10, batch_norm=True)
x, y = gx.input("x", model.input_shape(8)), gx.input("y", (8,), "int64")
loss = gx.cross_entropy(model(x, training=True), y)
step = gx.training_step(loss, gx.Adam(0.001), precision="PRECISION", threads=THREADS)
data, digest = np.random.default_rng(3), hashlib.sha256()
for _ in range(6):
    images = data.normal(size=x.shape).astype("float32")
    digest.update(step(x=images, y=data.integers(0, 10, 8))[0].tobytes())
for array in (*step.parameters.values(), *step.states.values()):
    digest.update(array.tobytes())
source = "".join(kernel.source for kernel in step.kernels.values())
print(digest.hexdigest(), hashlib.sha256(source.encode()).hexdigest())
"""


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_same_bytes_for_every_number_of_threads(precision: str) -> None:
    code = TRAINING.replace("PRECISION", precision)
    found = {
        run_python(code.replace("THREADS", str(n)), timeout=600, PYTHONHASHSEED=str(n))
        for n in (1, 2, 3, 4)
    }
    assert len(found) == 1


def tiny_step(scale_down: float = 1.0, **options: object) -> TrainingStep:
    """A dense layer whose gradients are ``scale_down`` times as large."""
    x, w = gx.input("x", (16, 32)), gx.parameter("w", (24, 32))
    hidden = gx.tanh(gx.dense(x, w))
    loss = gx.sum(gx.dense(hidden, gx.constant(np.full((8, 24), 0.5, np.float32)))) * scale_down
    return training_step(loss, gx.SGD(1.0 / scale_down), **options)


TARGETS = pytest.mark.parametrize("target", ["c", "cuda-emu"])


@TARGETS
def test_scaling_keeps_small_gradients(target: str, seeded: np.random.Generator) -> None:
    """Gradients of 1e-9 are zero in float16, but not with the scale, which is divided out."""
    value = seeded.normal(size=(16, 32)).astype("float32")
    moved = {}
    for precision in ("fp32", "fp16"):
        step = tiny_step(1e-9, precision=precision, target=target)
        before = np.array(step.parameters["w"])
        step(x=value)
        moved[precision] = np.asarray(step.parameters["w"]) - before
    assert np.abs(moved["fp32"]).max() > 0.1
    assert distance(moved["fp16"], moved["fp32"]) < 1e-2


@TARGETS
def test_an_overflow_changes_nothing_but_the_scale(
    target: str, seeded: np.random.Generator
) -> None:
    step = tiny_step(precision="fp16", target=target)
    step.states["loss_scale"][...] = 2.0**24
    before = np.array(step.parameters["w"])
    value = seeded.normal(size=(16, 32)).astype("float32")
    scales = []
    while not scales or np.array_equal(before, step.parameters["w"]):
        step(x=value)
        scales.append(float(step.states["loss_scale"]))
        assert len(scales) < 20
    assert scales[0] == 2.0**23
    assert scales[-2:] == [scales[-1]] * 2  # halved until a step was good, which kept it
    assert np.isfinite(step.parameters["w"]).all()


@TARGETS
def test_the_scale_grows_after_good_steps(
    target: str, seeded: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "PATIENCE", 3)
    step = tiny_step(1e-3, precision="fp16", target=target)
    value = seeded.normal(size=(16, 32)).astype("float32")
    scales = []
    for _ in range(7):
        step(x=value)
        scales.append(np.log2(float(step.states["loss_scale"])))
    assert scales == [16, 16, 17, 17, 17, 18, 18]


def test_only_float16_has_a_scale() -> None:
    loss, _ = narrow_vgg()
    names = {
        precision: {a.state.label for a in assigned(loss, precision)}
        for precision in ("fp32", "bf16", "fp16")
    }
    assert names["fp32"] == names["bf16"]
    assert names["fp16"] - names["fp32"] == {"loss_scale", "loss_scale_streak"}


def assigned(loss: Node, precision: str) -> Sequence[Assignment]:
    return training_assignments(loss, gx.SGD(0.1), precision=precision)


@pytest.mark.parametrize("wrong", ["bfloat16", "int8", 16, None])
def test_unknown_precisions_are_refused(wrong: object) -> None:
    x = gx.input("x", (4,))
    with pytest.raises(UserError, match="expected one of fp32, tf32, bf16, fp16"):
        compile_graph([x * 2.0], precision=wrong)
    with pytest.raises(UserError, match="expected one of fp32, tf32, bf16, fp16"):
        training_assignments(narrow_vgg()[0], gx.SGD(0.1), precision=wrong)
