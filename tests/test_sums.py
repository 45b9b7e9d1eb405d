"""Which equations add up an array over some of its dimensions, by way of partial sums or not."""

from collections.abc import Callable

import numpy as np
import pytest

from graphc.evaluate import evaluate
from graphc.ir.graph import Graph, Node
from graphc.ops import leaves, reductions
from graphc.ops.define import Definition, Operand, axes, define, op, sum_over
from graphc.passes import split
from graphc.passes.sums import ArraySum, array_sum, array_sums


def summed(graph: Graph) -> list[ArraySum]:
    """The different sums of a graph."""
    return list(dict.fromkeys(array_sums(graph).values()))


@pytest.mark.parametrize("axes", [(0, 2, 3), (0,), (1, 2), (0, 1, 2, 3)])
def test_a_plain_sum(axes: tuple[int, ...]) -> None:
    x = leaves.input("x", (3, 4, 5, 6))
    node = reductions.sum(x, axes)
    found = array_sum((node,))
    assert found is not None
    assert found.array is x
    assert found.nodes == (node,)
    assert found.kept == tuple(d for d in range(4) if d not in axes)


@pytest.mark.parametrize(("images", "pieces"), [(8, 64), (9, 2), (8, 2), (10, 2)])
def test_partial_sums_of_images_and_of_pieces(
    images: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "_LONG_SUM", 1)
    monkeypatch.setattr(split, "_PIECES", pieces)
    x = leaves.input("x", (images, 4, 5, 6))
    graph = split.split_reductions(Graph((reductions.sum(x, (0, 2, 3)),)))
    [found] = summed(graph)
    assert found.array is x
    assert found.kept == (1,)
    assert [len(node.shape) for node in found.nodes] == [2, 1]
    assert set(array_sums(graph)) == set(found.nodes)


def test_partial_sums_that_others_read_are_sums_of_their_own() -> None:
    x = leaves.input("x", (3, 4, 5))
    rows = reductions.sum(x, 2)
    whole = reductions.sum(rows, 0)
    assert [one.array for one in summed(Graph((whole,)))] == [x]
    assert [one.array for one in summed(Graph((whole, rows)))] == [x, rows]
    assert [one.array for one in summed(Graph((whole, rows * 2.0)))] == [x, rows]


@op
def half(x: Operand) -> Definition:
    """out[n] = sum over i of x[n, 2*i]: every other element."""
    n, i = axes("n i")
    return define[n](sum_over[i](x[n, 2 * i]))


@op
def squares(x: Operand) -> Definition:
    """out[n] = sum over i of x[n, i]^2: not the elements as they are."""
    n, i = axes("n i")
    return define[n](sum_over[i](x[n, i] * x[n, i]))


@op
def diagonal(x: Operand) -> Definition:
    """out = sum over i of x[i, i]: one axis for two dimensions."""
    (i,) = axes("i")
    return define[()](sum_over[i](x[i, i]))


@pytest.mark.parametrize("build", [half, squares, diagonal], ids=lambda f: f.__name__)
def test_other_sums(build: Callable[[Node], Node]) -> None:
    assert array_sum((build(leaves.input("x", (6, 6))),)) is None


def test_other_reductions() -> None:
    assert array_sum((reductions.max(leaves.input("x", (6, 6)), 0),)) is None


def test_the_sum_is_what_its_nodes_compute(seeded: np.random.Generator) -> None:
    x = leaves.input("x", (3, 4, 5, 6))
    array = seeded.normal(size=x.shape).astype("f4")
    rows = reductions.sum(x, (1, 3))
    node = reductions.sum(rows, 1)
    found = array_sum((rows, node))
    assert found is not None
    [got] = evaluate([node], {"x": array})
    over = tuple(d for d in range(4) if d not in found.kept)
    np.testing.assert_allclose(got, array.sum(over), rtol=1e-5)
