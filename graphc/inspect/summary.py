"""`graphc summary`: what each layer holds and costs, read off its equations and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sympy

from graphc.dsl.model import Model
from graphc.inspect.receptive import Field, receptive_field
from graphc.inspect.table import amount, table
from graphc.ir.graph import Graph, Node
from graphc.ir.types import Shape, element_count
from graphc.ops.leaves import input


@dataclass(frozen=True)
class LayerSummary:
    """One layer on one image; ``macs`` are the points at which its sums of products multiply."""

    name: str
    shape: Shape
    parameters: int
    macs: int
    field: Field | None


def summarise(model: Model, as_json: bool) -> str:
    """The table of a model's layers, or the same as one JSON document."""
    layers = layer_summaries(model)
    return _document(model, layers) if as_json else _text(model, layers)


def layer_summaries(model: Model) -> tuple[LayerSummary, ...]:
    """The layers of a model as it predicts, for one image, in the order of computation."""
    x = input("x", model.input_shape(1), model.settings.dtype)
    nodes = Graph((model(x, training=False),)).nodes
    layers: dict[str, list[Node]] = {}
    for node in nodes:
        if node.equation is not None:
            layers.setdefault(node.layer or node.label, []).append(node)
    counted: set[Node] = set()
    return tuple(_layer(name, found, x, counted) for name, found in layers.items())


def _layer(name: str, nodes: Sequence[Node], x: Node, counted: set[Node]) -> LayerSummary:
    """A shared parameter counts where it is used first."""
    last = nodes[-1]
    own = {o for node in nodes for o in node.inputs if o.kind == "parameter"} - counted
    counted |= own
    return LayerSummary(
        name, last.shape[1:], sum(element_count(p.shape) for p in own),
        sum(multiplications(node) for node in nodes), receptive_field(last, x),
    )  # fmt: skip


def multiplications(node: Node) -> int:
    """Points of the iteration space, if the equation sums products of two or more values."""
    equation = node.op_equation()
    factors = [f for f in sympy.Mul.make_args(equation.body) if f.free_symbols]
    return equation.points if equation.reduction == "sum" and len(factors) > 1 else 0


def _text(model: Model, layers: Sequence[LayerSummary]) -> str:
    rows = [_row(layer) for layer in layers]
    parameters, macs = (sum(getattr(layer, k) for layer in layers) for k in ("parameters", "macs"))
    image = "x".join(map(str, model.input_shape(1)[1:]))
    headers = ("layer", "output", "parameters:", "MACs:", "field:", "stride:")
    total = ["total", "", f"{parameters:,}", amount(macs), "", ""]
    lines = table(headers, [*rows, total])
    note = (
        "field: rows and columns of the image that one element reaches; "
        "stride: how far apart its neighbours' lie."
    )
    return "\n".join([f"{model.name} on one image of {image}", "", *lines, "", note])


def _row(layer: LayerSummary) -> list[str]:
    field = layer.field
    return [
        layer.name, "x".join(map(str, layer.shape)),
        f"{layer.parameters:,}" if layer.parameters else "",
        amount(layer.macs) if layer.macs else "",
        _pair(field.size) if field else "",
        _pair(field.stride) if field and field.stride else "",
    ]  # fmt: skip


def _pair(values: tuple[int, int]) -> str:
    return f"{values[0]}" if values[0] == values[1] else f"{values[0]}x{values[1]}"


def _document(model: Model, layers: Sequence[LayerSummary]) -> str:
    document = {
        "network": model.name,
        "input": list(model.input_shape(1)),
        "layers": [asdict(layer) for layer in layers],
        "parameters": sum(layer.parameters for layer in layers),
        "macs": sum(layer.macs for layer in layers),
    }
    return json.dumps(document, indent=1)
