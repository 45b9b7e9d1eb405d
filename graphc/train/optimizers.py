"""Optimizers: each is one update equation over a parameter and its gradient.

A user's own optimizer is a subclass of ``Optimizer`` with one more ``update``:

    @dataclass(frozen=True)
    class SignSGD(gx.Optimizer):
        def update(self, p, g, slots):
            return p - slots.learning_rate * gx.sign(g)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.errors import user_error
from graphc.ir.graph import Assignment, Node
from graphc.ir.types import DType
from graphc.ops.elementwise import power, sqrt
from graphc.ops.leaves import state
from graphc.ops.messages import brief


@dataclass
class Shared:
    """States that all parameters of one type share: the learning rate and the count of steps."""

    dtype: DType
    learning_rate: Node
    count: Node

    @property
    def next_count(self) -> Node:
        """The number of the step being made, from 1."""
        return self.count + 1


@dataclass
class Slots:
    """What an update may use besides the parameter and its gradient: states of its shape."""

    parameter: Node
    shared: Shared
    assignments: list[Assignment] = field(default_factory=list)
    counted: bool = False

    @property
    def learning_rate(self) -> Node:
        """The learning rate, a scalar that can be changed between steps without recompiling."""
        return self.shared.learning_rate

    @property
    def step(self) -> Node:
        """The number of this step, from 1, as a scalar."""
        self.counted = True
        return self.shared.next_count

    def zeros(self, name: str) -> Node:
        """A state of the parameter's shape that starts at zero, such as a velocity."""
        p = self.parameter
        return state(f"{p.label}.{name}", p.shape, 0.0, p.dtype)

    def keep(self, slot: Node, value: Node) -> Node:
        """Let the slot take the value after this step; returns the value."""
        self.assignments.append(Assignment(slot, value))
        return value


@dataclass(frozen=True)
class Optimizer:
    """Base class; ``lr`` is the first learning rate."""

    lr: float = 0.01

    def __post_init__(self) -> None:
        """Check the learning rate."""
        if not isinstance(self.lr, int | float) or not 0 < self.lr < float("inf"):
            raise user_error(
                f"{type(self).__name__}: lr is {brief(self.lr)}", "expected a positive number"
            )

    def update(self, p: Node, g: Node, slots: Slots) -> Node:
        """The parameter's next value."""
        raise user_error(f"{type(self).__name__} must define update(self, p, g, slots)")


@dataclass(frozen=True)
class SGD(Optimizer):
    """v = momentum*v + g + weight_decay*p;  p = p - lr*v  (Nesterov: p - lr*(g + momentum*v))."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def update(self, p: Node, g: Node, slots: Slots) -> Node:
        """The parameter's next value."""
        if self.weight_decay:
            g = g + self.weight_decay * p
        if not self.momentum:
            return p - slots.learning_rate * g
        slot = slots.zeros("velocity")
        velocity = slots.keep(slot, self.momentum * slot + g)
        direction = g + self.momentum * velocity if self.nesterov else velocity
        return p - slots.learning_rate * direction


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba 2015 with bias correction; weight_decay is added to the gradient."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def update(self, p: Node, g: Node, slots: Slots) -> Node:
        """The parameter's next value."""
        if self.weight_decay:
            g = g + self.weight_decay * p
        return p - slots.learning_rate * self._direction(g, slots)

    def _direction(self, g: Node, slots: Slots) -> Node:
        first, second = slots.zeros("mean"), slots.zeros("square")
        mean = slots.keep(first, self.beta1 * first + (1 - self.beta1) * g)
        square = slots.keep(second, self.beta2 * second + (1 - self.beta2) * g * g)
        mean_now = mean / (1 - power(self.beta1, slots.step))
        square_now = square / (1 - power(self.beta2, slots.step))
        return mean_now / (sqrt(square_now) + self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float = 0.01

    def update(self, p: Node, g: Node, slots: Slots) -> Node:
        """The parameter's next value."""
        direction = self._direction(g, slots) + self.weight_decay * p
        return p - slots.learning_rate * direction


def update_assignments(
    optimizer: Optimizer, parameters: list[Node], gradients: list[Node]
) -> list[Assignment]:
    """Assignments of all parameters and slots, the last layer's first: gradients die early."""
    shared = {dtype: _shared(dtype, optimizer) for dtype in {p.dtype for p in parameters}}
    found: list[Assignment] = []
    counted: list[DType] = []
    for p, g in reversed(list(zip(parameters, gradients, strict=True))):
        slots = Slots(p, shared[p.dtype])
        value = optimizer.update(p, g, slots)
        found += [*slots.assignments, Assignment(p, value)]
        if slots.counted and p.dtype not in counted:
            counted.append(p.dtype)
    return [*found, *(Assignment(shared[d].count, shared[d].next_count) for d in counted)]


def _shared(dtype: DType, optimizer: Optimizer) -> Shared:
    suffix = "" if dtype == DType.float32 else f".{dtype.value}"
    return Shared(
        dtype,
        state(f"learning_rate{suffix}", (), float(optimizer.lr), dtype),
        state(f"optimizer_step{suffix}", (), 0.0, dtype),
    )
