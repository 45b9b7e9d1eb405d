"""Optimizers, running statistics and dropout: compiled steps against PyTorch and the oracle."""

from dataclasses import dataclass

import numpy as np
import pytest

import graphc as gx
from graphc.compiler import compile_graph
from graphc.ir.graph import Assignment
from graphc.train.optimizers import SGD, Adam, AdamW, Optimizer
from graphc.train.step import TrainingStep, training_step
from tests.compiled import distance, run_python

torch = pytest.importorskip("torch")
Arrays = dict[str, np.ndarray]
STEPS = 5

OPTIMIZERS = {
    "sgd": (SGD(0.1), torch.optim.SGD, {"lr": 0.1}),
    "decay": (SGD(0.1, weight_decay=0.3), torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": (SGD(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (Adam(0.05), torch.optim.Adam, {"lr": 0.05}),
    "adam-decay": (Adam(0.05, weight_decay=0.2), torch.optim.Adam,
                   {"lr": 0.05, "weight_decay": 0.2}),
    "adam-betas": (Adam(0.05, beta1=0.7, beta2=0.8, eps=1e-3), torch.optim.Adam,
                   {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-3}),
    "adamw": (AdamW(0.05, weight_decay=0.1), torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
}  # fmt: skip


def start(generator: np.random.Generator) -> Arrays:
    shapes = {"w": (4, 6), "b": (4,), "v": (3, 4)}
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


def our_step(optimizer: Optimizer, arrays: Arrays) -> TrainingStep:
    x, y = gx.input("x", (7, 6), "float64"), gx.input("y", (7, 3), "float64")
    w, b, v = (gx.parameter(n, arrays[n].shape, arrays[n], "float64") for n in "wbv")
    loss = gx.squared_error(gx.dense(gx.tanh(gx.dense(x, w, b)), v), y)
    return training_step(loss, optimizer)


def torch_loss(tensors: dict, x: np.ndarray, y: np.ndarray) -> "torch.Tensor":
    hidden = torch.tanh(torch.tensor(x) @ tensors["w"].T + tensors["b"])
    return ((hidden @ tensors["v"].T - torch.tensor(y)) ** 2).mean()


def assert_same(ours: Arrays, theirs: dict, tolerance: float = 1e-10) -> None:
    for name, tensor in theirs.items():
        assert distance(ours[name], tensor.detach().numpy()) < tolerance, name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_equal_torch(name: str, seeded: np.random.Generator) -> None:
    ours, kind, settings = OPTIMIZERS[name]
    arrays = start(seeded)
    step = our_step(ours, arrays)
    tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    theirs = kind(tensors.values(), **settings)
    for number in range(STEPS):
        x, y = seeded.normal(size=(7, 6)), seeded.normal(size=(7, 3))
        if number == 3:  # the learning rate changes without another compilation
            step.learning_rate = theirs.param_groups[0]["lr"] = 0.02
        loss = torch_loss(tensors, x, y)
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        (value,) = step(x=x, y=y)
        assert abs(value - loss.item()) < 1e-12
        assert_same(step.parameters, tensors)
    assert step.learning_rate == 0.02


@dataclass(frozen=True)
class SignMomentum(Optimizer):
    """m = beta*m + (1 - beta)*g;  p = p - lr*sign(m)."""

    beta: float = 0.5

    def update(self, p, g, slots):
        slot = slots.zeros("m")
        mean = slots.keep(slot, self.beta * slot + (1 - self.beta) * g)
        return p - slots.learning_rate * gx.sign(mean)


def test_a_users_own_optimizer(seeded: np.random.Generator) -> None:
    arrays = start(seeded)
    step = our_step(SignMomentum(0.03), arrays)
    tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    means = {n: torch.zeros_like(t) for n, t in tensors.items()}
    for _ in range(STEPS):
        x, y = seeded.normal(size=(7, 6)), seeded.normal(size=(7, 3))
        step(x=x, y=y)
        found = torch.autograd.grad(torch_loss(tensors, x, y), list(tensors.values()))
        for (name, tensor), gradient in zip(tensors.items(), found, strict=True):
            means[name] = 0.5 * means[name] + 0.5 * gradient
            tensor.data -= 0.03 * means[name].sign()
        assert_same(step.parameters, tensors)


def test_batch_norm_statistics_equal_torch(seeded: np.random.Generator) -> None:
    x, y = gx.input("x", (6, 3, 5, 4), "float64"), gx.input("y", (6, 3, 5, 4), "float64")
    gamma, beta = (gx.parameter(n, (3,), v, "float64") for n, v in (("gamma", 1), ("beta", 0)))
    mean, var = (gx.state(n, (3,), v, "float64") for n, v in (("mean", 0), ("var", 1)))
    out = gx.batch_norm(x, gamma, beta, mean, var, training=True, momentum=0.2)
    step = training_step(gx.squared_error(out, y), SGD(0.1, momentum=0.9), metrics=[out])
    theirs = torch.nn.BatchNorm2d(3, momentum=0.2, dtype=torch.float64)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, 0.9)
    for _ in range(STEPS):
        arrays = {n: seeded.normal(2, 3, size=(6, 3, 5, 4)) for n in "xy"}
        _, ours = step(**arrays)
        wanted = theirs(torch.tensor(arrays["x"]))
        optimizer.zero_grad()
        torch.mean((wanted - torch.tensor(arrays["y"])) ** 2).backward()
        optimizer.step()
        assert distance(ours, wanted.detach().numpy()) < 1e-10
    assert_same(step.states, {"mean": theirs.running_mean, "var": theirs.running_var})
    assert_same(step.parameters, {"gamma": theirs.weight, "beta": theirs.bias})


DROPOUT = """
import numpy as np, graphc as gx
from graphc.train.step import training_step
x = gx.input("x", (200, 300))
w = gx.parameter("w", (200, 300), np.ones((200, 300), "float32"))
out = gx.dropout(x * w, 0.3, training=True, seed=5)
step = training_step(gx.sum(out), gx.SGD(1.0), metrics=[out], threads={threads})
"""


def test_dropout(seeded: np.random.Generator) -> None:
    scope: dict = {}
    exec(DROPOUT.format(threads=2), scope)
    step, x = scope["step"], seeded.uniform(1, 2, size=(200, 300)).astype("float32")
    masks = []
    for number in range(3):
        before = step.parameters["w"].copy()
        (wanted,) = gx.evaluate([scope["out"]], {"x": x, "w": before, "step": np.array(number)})
        _, out = step(x=x)
        np.testing.assert_allclose(out, wanted, rtol=1e-6)
        kept = out != 0
        masks.append(kept)
        # The gradient of w is x / keep where the forward pass kept the element, else 0.
        moved = before - step.parameters["w"]
        np.testing.assert_allclose(moved, np.where(kept, x / np.float32(0.7), 0), rtol=1e-3)
        assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / kept.size)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        agreement = np.mean(masks[first] == masks[second])
        assert abs(agreement - (0.7**2 + 0.3**2)) < 0.02


def test_dropout_is_the_same_for_every_number_of_threads() -> None:
    code = DROPOUT + "a = np.ones((200, 300), 'float32')\nimport hashlib\n"
    code += "out = [step(x=a)[1].tobytes() for _ in range(3)]\n"
    code += "print(hashlib.sha256(b''.join(out)).hexdigest())"
    assert len({run_python(code.format(threads=n)) for n in (1, 2, 4)}) == 1


def test_assigned_states_hold_what_they_should() -> None:
    """Old values that are outputs or other states' next values are those before the step."""
    w = gx.parameter("w", (3,), np.arange(3.0), "float64")
    last = gx.state("last", (3,), -1.0, "float64")
    a, b = (gx.state(n, (2, 2), v, "float64") for n, v in (("a", 1.0), ("b", 2.0)))
    assignments = [
        Assignment(w, w * 2.0), Assignment(last, w),
        Assignment(a, b), Assignment(b, gx.transpose(a) + b),
    ]  # fmt: skip
    program = compile_graph([w, gx.reshape(b, (4,)), w * 2.0], assignments=assignments)
    out_w, out_b, out_twice = program()
    np.testing.assert_array_equal(out_w, [0, 1, 2])
    np.testing.assert_array_equal(out_b, [2, 2, 2, 2])
    np.testing.assert_array_equal(out_twice, [0, 2, 4])
    np.testing.assert_array_equal(program.parameters["w"], [0, 2, 4])
    np.testing.assert_array_equal(program.states["last"], [0, 1, 2])
    np.testing.assert_array_equal(program.states["a"], np.full((2, 2), 2.0))
    np.testing.assert_array_equal(program.states["b"], np.full((2, 2), 3.0))
