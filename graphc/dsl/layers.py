"""Layers: parameters made once by the constructor, applied by a call; names become kernel names.

conv = Conv2d("conv1", 3, 64, 3, padding=1)
y = conv(x)          # parameters conv1.weight and conv1.bias
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.dsl import init
from graphc.errors import user_error
from graphc.ir.graph import Initializer, Node
from graphc.ir.types import DType
from graphc.ops.activations import relu
from graphc.ops.convolution import conv2d
from graphc.ops.define import layer_scope
from graphc.ops.leaves import parameter, state
from graphc.ops.linear import dense
from graphc.ops.normalization import batch_norm, local_response_norm
from graphc.ops.pooling import max_pool2d
from graphc.ops.random import dropout
from graphc.ops.shape import flatten
from graphc.ops.windows import Paddings, Sizes, per_dimension


class Layer:
    """A named function of one value; a subclass fills the tuples and writes ``forward``."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip():
            raise user_error(f"a layer's name must be a non-empty text, here {name!r}")
        self.name = name
        self.parameters: tuple[Node, ...] = ()
        self.states: tuple[Node, ...] = ()

    def __call__(self, x: Node, training: bool = False) -> Node:
        """Apply the layer; every node that it makes carries its name."""
        with layer_scope(self.name):
            return self.forward(x, training)

    def forward(self, x: Node, training: bool) -> Node:
        """What the layer computes."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _parameter(
        self, role: str, shape: tuple[int, ...], start: Initializer, dtype: str | DType
    ) -> Node:
        with layer_scope(self.name):
            return parameter(f"{self.name}.{role}", shape, start, dtype)


class Conv2d(Layer):
    """Convolution with filters (channels, in_channels / groups, *window) and a bias."""

    def __init__(
        self, name: str, in_channels: int, channels: int, window: Sizes, *, stride: Sizes = 1,
        padding: Paddings = 0, dilation: Sizes = 1, groups: int = 1, bias: bool = True,
        weight_init: Initializer | None = None, dtype: str | DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(name)
        size = per_dimension(f"Conv2d '{name}'", "window", window, 2, 1)
        if groups < 1 or in_channels % groups or channels % groups:
            raise user_error(
                f"Conv2d '{name}': {groups} groups do not divide "
                f"{in_channels} and {channels} channels"
            )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (channels, in_channels // groups, *size)
        self.weight = self._parameter("weight", shape, weight_init or init.he_normal(), dtype)
        self.bias = self._parameter("bias", (channels,), init.zeros(), dtype) if bias else None
        self.parameters = (self.weight, self.bias) if self.bias is not None else (self.weight,)

    def forward(self, x: Node, training: bool) -> Node:
        """(N, in_channels, H, W) -> (N, channels, H', W')."""
        return conv2d(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding,
            dilation=self.dilation, groups=self.groups,
        )  # fmt: skip


class Dense(Layer):
    """x w^T + b with weights (outputs, inputs)."""

    def __init__(
        self, name: str, inputs: int, outputs: int, *, bias: bool = True,
        weight_init: Initializer | None = None, dtype: str | DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(name)
        start = weight_init or init.he_normal()
        self.weight = self._parameter("weight", (outputs, inputs), start, dtype)
        self.bias = self._parameter("bias", (outputs,), init.zeros(), dtype) if bias else None
        self.parameters = (self.weight, self.bias) if self.bias is not None else (self.weight,)

    def forward(self, x: Node, training: bool) -> Node:
        """(.., inputs) -> (.., outputs)."""
        return dense(x, self.weight, self.bias)


class BatchNorm2d(Layer):
    """Batch normalisation of every channel; keeps a running mean and variance."""

    def __init__(
        self, name: str, channels: int, *, momentum: float = 0.1, eps: float = 1e-5,
        dtype: str | DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.momentum, self.eps = momentum, eps
        self.weight = self._parameter("weight", (channels,), init.ones(), dtype)
        self.bias = self._parameter("bias", (channels,), init.zeros(), dtype)
        self.parameters = (self.weight, self.bias)
        with layer_scope(name):
            self.running_mean = state(f"{name}.running_mean", (channels,), 0.0, dtype)
            self.running_var = state(f"{name}.running_var", (channels,), 1.0, dtype)
        self.states = (self.running_mean, self.running_var)

    def forward(self, x: Node, training: bool) -> Node:
        """(N, channels, ...) -> the same shape."""
        return batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var,
            training=training, momentum=self.momentum, eps=self.eps,
        )  # fmt: skip


class LocalResponseNorm(Layer):
    """Normalisation by neighbouring channels: see ``local_response_norm``."""

    def __init__(
        self, name: str, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__(name)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Node, training: bool) -> Node:
        """(N, C, ...) -> the same shape."""
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)


class MaxPool2d(Layer):
    """Maximum of windows; the stride is the window unless given."""

    def __init__(
        self, name: str, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0
    ) -> None:
        super().__init__(name)
        self.window, self.stride, self.padding = window, stride, padding

    def forward(self, x: Node, training: bool) -> Node:
        """(N, C, H, W) -> (N, C, H', W')."""
        return max_pool2d(x, self.window, stride=self.stride, padding=self.padding)


class Dropout(Layer):
    """Zeros with probability ``rate`` while training: see ``dropout``."""

    def __init__(
        self, name: str, rate: float = 0.5, *, seed: int = 0, stream: int | None = None
    ) -> None:
        super().__init__(name)
        self.rate, self.seed, self.stream = rate, seed, stream

    def forward(self, x: Node, training: bool) -> Node:
        """Any shape -> the same shape."""
        return dropout(x, self.rate, training=training, seed=self.seed, stream=self.stream)


class Activation(Layer):
    """A function of one value without parameters, such as ``gx.tanh``."""

    def __init__(self, name: str, function: Callable[[Node], Node]) -> None:
        super().__init__(name)
        self.function = function

    def forward(self, x: Node, training: bool) -> Node:
        """Any shape -> what the function gives."""
        return self.function(x)


class ReLU(Activation):
    """max(x, 0)."""

    def __init__(self, name: str) -> None:
        super().__init__(name, relu)


class Flatten(Layer):
    """(N, ...) -> (N, product of the rest)."""

    def forward(self, x: Node, training: bool) -> Node:
        """(N, ...) -> (N, features)."""
        return flatten(x)


class Sequential(Layer):
    """Layers one after the other. Without a name it adds nothing to the names of its layers."""

    def __init__(self, layers: Sequence[Layer], name: str = "") -> None:
        super().__init__(name or "sequential")
        self.scoped = bool(name)
        self.layers = tuple(layers)
        names = [layer.name for layer in self.layers]
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise user_error(f"two layers are called '{twice[0]}'", "give each its own name")
        self.parameters = tuple(p for layer in self.layers for p in layer.parameters)
        self.states = tuple(s for layer in self.layers for s in layer.states)

    def __call__(self, x: Node, training: bool = False) -> Node:
        """Apply the layers in order."""
        return super().__call__(x, training) if self.scoped else self.forward(x, training)

    def forward(self, x: Node, training: bool) -> Node:
        """What the last layer gives."""
        for layer in self.layers:
            x = layer(x, training)
        return x
