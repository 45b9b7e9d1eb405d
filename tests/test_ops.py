"""Every op against PyTorch and finite differences in float64, by the oracle without a compiler."""

import itertools

import numpy as np
import pytest

from graphc.autodiff.backward import gradients
from graphc.errors import UserError
from graphc.evaluate import evaluate
from graphc.ir.graph import Node
from graphc.ops import activations, compare, elementwise, leaves, linear, reductions, shape
from tests.op_cases import CASES as PLAIN_CASES
from tests.op_cases import OpCase
from tests.op_cases_nn import NN_CASES

torch = pytest.importorskip("torch")

RESHAPES = [
    pair
    for shapes in (
        [(24,), (4, 6), (8, 3), (2, 3, 4), (2, 2, 6), (3, 2, 4)],
        [(30,), (5, 6), (3, 10), (6, 5), (5, 3, 2), (2, 5, 3)],
    )
    for pair in itertools.permutations(shapes, 2)
]
CASES = [*PLAIN_CASES, *NN_CASES]
DIFFERENTIABLE = [case for case in CASES if case.differentiable]
STEP = 1e-5


def names(case: OpCase) -> str:
    return case.name


def weighted(out: Node, weights: np.ndarray) -> Node:
    return reductions.sum(out * leaves.constant(weights))


def feeds(inputs: list[Node], arrays: list[np.ndarray]) -> dict[Node | str, np.ndarray]:
    return dict(zip(inputs, arrays, strict=True))


def floating(case: OpCase, values: list) -> list:
    return [value for n, value in enumerate(values) if n not in case.integers]


def tensors(case: OpCase, arrays: list[np.ndarray]) -> list:
    return [
        torch.tensor(array, requires_grad=n not in case.integers) for n, array in enumerate(arrays)
    ]


def assert_close(ours: np.ndarray, theirs: np.ndarray, relative: float = 1e-9) -> None:
    assert ours.shape == theirs.shape
    scale = max(np.abs(theirs).max(initial=0), 1e-12)
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=relative)


def test_the_names_of_the_cases_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=names)
def test_forward_equals_torch(case: OpCase, seeded: np.random.Generator) -> None:
    inputs, arrays = case.inputs(), case.sample(seeded)
    out = case.build(*inputs)
    (ours,) = evaluate([out], feeds(inputs, arrays))
    theirs = case.torch(*map(torch.tensor, arrays)).numpy()
    assert ours.shape == out.shape
    if case.differentiable:
        return assert_close(ours, theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=names)
def test_gradients_equal_torch(case: OpCase, seeded: np.random.Generator) -> None:
    inputs, arrays = case.inputs(), case.sample(seeded)
    out = case.build(*inputs)
    weights = seeded.normal(size=out.shape)
    wrt = floating(case, inputs)
    ours = evaluate(gradients(weighted(out, weights), wrt), feeds(inputs, arrays))
    given = tensors(case, arrays)
    value = case.torch(*given)
    if not value.requires_grad:  # PyTorch, too, finds no path
        assert all(not gradient.any() for gradient in ours)
        return
    theirs = torch.autograd.grad(
        (value * torch.tensor(weights)).sum(), floating(case, given),
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other.numpy())


@pytest.mark.parametrize("case", [c for c in DIFFERENTIABLE if c.name != "sign"], ids=names)
def test_second_gradients_equal_torch(case: OpCase, seeded: np.random.Generator) -> None:
    inputs, arrays = case.inputs(), case.sample(seeded)
    out = case.build(*inputs)
    weights = seeded.normal(size=out.shape)
    wrt = floating(case, inputs)
    slopes = gradients(weighted(out * out + out, weights), wrt)
    mixed = [seeded.normal(size=slope.shape) for slope in slopes]
    total = sum((weighted(s, m) for s, m in zip(slopes, mixed, strict=True)), start=0.0)
    ours = evaluate(gradients(total, wrt), feeds(inputs, arrays))
    given = tensors(case, arrays)
    value = case.torch(*given)
    chosen = floating(case, given)
    options = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(
        ((value**2 + value) * torch.tensor(weights)).sum(), chosen, create_graph=True, **options
    )
    theirs = torch.autograd.grad(
        sum((f * torch.tensor(m)).sum() for f, m in zip(first, mixed, strict=True)),
        chosen, **options,
    )  # fmt: skip
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other.numpy())


@pytest.mark.parametrize(
    "case", [c for c in DIFFERENTIABLE if c.name != "stop_gradient"], ids=names
)
def test_gradients_equal_finite_differences(case: OpCase, seeded: np.random.Generator) -> None:
    inputs, arrays = case.inputs(), case.sample(seeded)
    out = case.build(*inputs)
    weights = seeded.normal(size=out.shape)
    loss, wrt = weighted(out, weights), floating(case, inputs)
    slopes = evaluate(gradients(loss, wrt), feeds(inputs, arrays))
    directions = [
        np.zeros(a.shape) if n in case.integers else seeded.normal(size=a.shape)
        for n, a in enumerate(arrays)
    ]
    there, back = (
        [a + sign * STEP * d for a, d in zip(arrays, directions, strict=True)] for sign in (1, -1)
    )
    high, low = (float(evaluate([loss], feeds(inputs, at))[0]) for at in (there, back))
    ours = sum(
        float((s * d).sum()) for s, d in zip(slopes, floating(case, directions), strict=True)
    )
    scale = sum(float(np.abs(s).sum()) for s in slopes)
    assert abs(ours - (high - low) / (2 * STEP)) <= 1e-6 * max(scale, abs(high), 1e-3)


def gradient_at(build, *arrays: np.ndarray) -> list[np.ndarray]:
    inputs = [leaves.input(f"x{n}", np.shape(a), "float64") for n, a in enumerate(arrays)]
    loss = reductions.sum(build(*inputs))
    return evaluate(gradients(loss, inputs), feeds(inputs, [np.array(a) for a in arrays]))


@pytest.mark.parametrize(
    ("build", "at", "slope"),
    [
        (activations.relu, [-1.0, 0.0, 2.0], [0, 0, 1]),
        (elementwise.abs, [-1.0, 0.0, 2.0], [-1, 0, 1]),
        (lambda x: elementwise.maximum(x, 0.0), [-1.0, 0.0, 2.0], [0, 1, 1]),
        (lambda x: elementwise.minimum(x, 0.0), [-1.0, 0.0, 2.0], [1, 1, 0]),
        (lambda x: elementwise.clip(x, 0.0, 1.0), [0.0, 0.5, 1.0], [1, 1, 1]),
        (elementwise.sign, [-1.0, 0.0, 2.0], [0, 0, 0]),
        (reductions.max, [1.0, 3.0, 3.0, 3.0], [0, 1, 0, 0]),
        (reductions.min, [3.0, 1.0, 1.0], [0, 1, 0]),
        (reductions.max, [[2.0, 5.0], [5.0, 5.0]], [[0, 1], [0, 0]]),
        (lambda x: reductions.max(x, 0), [[2.0, 5.0], [2.0, 5.0]], [[1, 1], [0, 0]]),
        (reductions.prod, [0.0, 2.0, 3.0], [6, 0, 0]),
        (reductions.prod, [0.0, 2.0, 0.0], [0, 0, 0]),
    ],
)
def test_the_written_rules_at_kinks_and_ties(build, at: list, slope: list) -> None:
    (ours,) = gradient_at(build, np.array(at))
    np.testing.assert_array_equal(ours, slope)


def test_a_tie_of_maximum_goes_to_the_first_operand() -> None:
    first, second = gradient_at(elementwise.maximum, np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    np.testing.assert_array_equal(first, [1, 0])
    np.testing.assert_array_equal(second, [0, 1])


def test_argmax_takes_the_first_of_equal_elements() -> None:
    x = leaves.input("x", (2, 3))
    found = evaluate(
        [reductions.argmax(x, 1), reductions.argmin(x, 1)], {"x": [[1, 3, 3], [2, 2, 2]]}
    )
    np.testing.assert_array_equal(found, [[1, 0], [0, 0]])


def test_equal_calls_are_one_node() -> None:
    x = leaves.input("x", (2, 3))
    assert x * 2 + 1 is x * 2 + 1
    assert shape.reshape(x, (3, 2)) is shape.reshape(x, (-1, 2))
    assert leaves.constant([1.0, 2.0]) is leaves.constant([1.0, 2.0])


def test_numbers_are_part_of_the_body_and_arrays_are_constants() -> None:
    x = leaves.input("x", (2, 3))
    assert (x * 0.5).inputs == (x,)
    left, right = np.ones(3) * x, x * np.ones(3)
    assert left.dtype is x.dtype and right.inputs[1].kind == "constant"
    np.testing.assert_array_equal(*evaluate([left, right], {x: np.ones((2, 3))}))


def test_reshapes_read_through_quotients_and_remainders() -> None:
    x = leaves.input("x", (2, 512, 7, 7))
    (read,) = shape.flatten(x).op_equation().reads
    assert [str(index) for index in read.index] == ["i", "(j)//49", "((j)//7)%7", "(j)%7"]
    (slope,) = gradients(reductions.sum(shape.flatten(x) * np.ones((2, 25088))), [x])
    (read,) = slope.op_equation().reads
    assert [str(index) for index in read.index] == ["i", "49*b + 7*c + d"]
    assert not slope.op_equation().guards and slope.op_equation().is_map


@pytest.mark.parametrize(("before", "after"), RESHAPES)
def test_the_gradient_of_a_reshape_sums_nothing(before: tuple, after: tuple) -> None:
    x = leaves.input("x", before)
    weights = leaves.input("w", after)
    (slope,) = gradients(reductions.sum(shape.reshape(x, after) * weights), [x])
    assert slope.op_equation().is_map
    w = np.arange(np.prod(after), dtype="float32").reshape(after)
    (ours,) = evaluate([slope], {"w": w, "x": np.zeros(before)})
    np.testing.assert_array_equal(ours, w.reshape(before))


def message(build) -> str:
    with pytest.raises(UserError) as caught:
        build()
    return str(caught.value)


def test_the_error_of_a_matrix_product_names_both_operands() -> None:
    a, b = leaves.input("hidden", (32, 10)), leaves.input("w2", (12, 4))
    lines = message(lambda: a @ b).splitlines()
    assert lines[0].startswith("test_ops.py:")
    assert lines[0].endswith(": matmul: the inner dimensions differ")
    assert lines[1].startswith("  a: float32[32, 10]   from `hidden` (test_ops.py:")
    assert lines[2].startswith("  b: float32[12, 4]    from `w2` (test_ops.py:")
    assert lines[3] == "  a's last and b's first dimension must be equal, here 10 and 12."


X = leaves.input("x", (2, 3))
N = leaves.input("n", (2, 3), "int32")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: X + leaves.input("y", (4,)), "extents 3 and 4"),
        (lambda: X + leaves.input("y", (3,), "float64"), "different element types"),
        (lambda: X + "text", "expected a graph value"),
        (lambda: (X > 0) + 1, "no arithmetic of bool"),
        (lambda: N * 0.5, "cast the array first"),
        (lambda: N / N, "must be floating"),
        (lambda: elementwise.exp(N), "must be floating"),
        (lambda: X / 0, "the divisor is the number 0"),
        (lambda: elementwise.clip(X, 1, 0), "low <= high"),
        (lambda: elementwise.add(1, 2), "at least one operand"),
        (lambda: elementwise.cast(X, "half"), "no element type"),
        (lambda: compare.where(X, X, X), "compare first"),
        (lambda: activations.gelu(X, "erf"), "expected False or 'tanh'"),
        (lambda: reductions.sum(X, 2), "no dimension 2"),
        (lambda: reductions.sum(X, (0, -2)), "names dimension 0 twice"),
        (lambda: reductions.mean(N), "must be floating"),
        (lambda: reductions.variance(X, 0, correction=2), "more elements"),
        (lambda: shape.reshape(X, (4, 2)), "6 elements do not fit"),
        (lambda: shape.reshape(X, (-1, -1)), "only one extent may be -1"),
        (lambda: shape.reshape(X, (-1, 4)), "6 elements do not fit"),
        (lambda: shape.transpose(X, (0, 0)), "expected each of the 2 dimensions once"),
        (lambda: X[2], "outside of dimension 0"),
        (lambda: X[0, 0, 0], "3 indexes for 2 dimensions"),
        (lambda: X[::-1], "gx.flip"),
        (lambda: X[1:1], "nothing is left"),
        (lambda: X["a"], "cannot index"),
        (lambda: shape.concat([X, leaves.input("y", (2, 3, 1))]), "the shapes do not fit"),
        (lambda: shape.concat([X, N]), "element types"),
        (lambda: shape.concat([]), "at least one"),
        (lambda: shape.stack([X, X[:1]]), "the shapes differ"),
        (lambda: shape.split(X, 2, 1), "extents that add up to 3"),
        (lambda: shape.broadcast_to(X, (3, 2)), "does not fit"),
        (lambda: shape.squeeze(X, 0), "extent 1"),
        (lambda: linear.einsum("ij,jk->ik", X), "expected 2, one a term, here 1"),
        (lambda: linear.einsum("ij,ij->k", X, X), "must occur in it once"),
        (lambda: linear.einsum("ij,jk->ik", X, X), "'j' must be equal, here 3 and 2"),
        (lambda: linear.einsum("ijk->i", X), "names 3 dimensions"),
        (lambda: linear.dense(X, leaves.input("w", (4, 2))), "one row of weights"),
        (lambda: X @ leaves.input("s", ()), "scalar"),
        (lambda: leaves.input("", (2,)), "a text that is not empty"),
        (lambda: leaves.input("x", (2, 0)), "positive integers"),
        (lambda: leaves.input("x", (2, -1)), "positive integers"),
        (lambda: leaves.input("x", (2.0,)), "positive integers"),
        (lambda: leaves.input("x", (2,), "float8"), "no element type"),
        (lambda: leaves.parameter("w", (2,), dtype="int64"), "expected a floating type"),
        (lambda: leaves.parameter("w", (2,), init=np.ones(3)), "float64[3]"),
        (lambda: leaves.constant(np.zeros((0, 3))), "positive integers"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_remedy(build, said: str) -> None:
    text = message(build)
    assert text.startswith("test_ops.py:") and said in text
    assert "graphc/" not in text and "sympy" not in text
