"""Which arrays convolutions read and write along channels, and where few of these are padded.

A device copies 4, 8 or 16 bytes at once. Three channels of 16 bits are three accesses a pixel and
tap, with a fourth place of zeros they are one copy; both factors have zeros there, or one is not
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.graph import Graph, Node
from graphc.ir.layout import Layout, padded
from graphc.ir.schedule import KernelPlan
from graphc.passes.classify import plain_factors
from graphc.passes.sliding import channel_roles

_COPY_BYTES = 16
Channel = tuple[Node, int]  # an array, and the dimension that its channels are


def channel_reads(kernel: KernelPlan) -> list[Channel]:
    """The arrays of pixels that a convolution reads."""
    leader = kernel.nodes[0]
    equation = leader.op_equation()
    roles = channel_roles(equation)
    found = []
    for number, axis in roles.reads if roles is not None else ():
        read = equation.reads[number]
        names = [index.single_name for index in read.index]
        found.append((leader.inputs[read.operand], names.index(axis)))
    return found


def channel_results(kernel: KernelPlan) -> list[Channel]:
    """The arrays of pixels that a convolution writes."""
    equation = kernel.nodes[0].op_equation()
    roles = channel_roles(equation)
    if roles is None or roles.result is None:
        return []
    across = [a.name for a in equation.axes].index(roles.result)
    return [(node, across) for node in kernel.stored if node not in kernel.summed]


def channel_filters(kernel: KernelPlan) -> Channel | None:
    """The filters of a convolution, and the channel over which it sums: that of its input."""
    leader = kernel.nodes[0]
    equation = leader.op_equation()
    roles = channel_roles(equation)
    if roles is None or roles.result is None:
        return None
    ((pixels, channel),) = roles.reads
    read = equation.reads[1 - pixels]
    names = [index.single_name for index in read.index]
    return leader.inputs[read.operand], names.index(channel)


def few_channels(kernel: KernelPlan) -> list[Channel]:
    """The arrays of pixels that a product reads, and whose channels are several copies a pixel."""
    equation = kernel.nodes[0].op_equation()
    roles = channel_roles(equation)
    if roles is None or len(plain_factors(equation)) < len(equation.reads):
        return []
    factors = [{index.single_name for index in read.index} for read in equation.reads]
    depthwise = set.intersection(*factors) & {a.name for a in equation.axes}
    if depthwise & {axis for _, axis in roles.reads}:
        return []
    return [channel for channel in channel_reads(kernel) if _is_padded(channel)]


def pad_channels(
    graph: Graph, kernels: Sequence[KernelPlan], places: Mapping[Node, int],
    layouts: Mapping[int, Layout],
) -> dict[int, Layout]:  # fmt: skip
    """The layouts that change: few channels that run fastest are padded, with those of filters.

    A kernel pads one dimension of what it writes.
    """
    changed: dict[int, Layout] = {}

    def pad(channel: Channel) -> bool:
        node, dimension = channel
        layout = layouts.get(places[node])
        fastest = layout is not None and layout.digits[-1].dimension == dimension
        if not fastest or padding_refusal(channel, graph, kernels, places):
            return False
        beside = {places[n] for k in kernels if node in k.stored for n in k.stored}
        wanted = padded(node.shape, dimension, _power_of_two(node.shape[dimension]))
        if any(changed[place].padding != wanted.padding for place in beside & set(changed)):
            return False
        changed[places[node]] = wanted
        return True

    for kernel in kernels:
        pixels = [pad(channel) for channel in few_channels(kernel)]
        filters = channel_filters(kernel)
        if any(pixels) and filters is not None and _is_padded(filters):
            pad(filters)
    return changed


def padding_refusal(
    channel: Channel, graph: Graph, kernels: Sequence[KernelPlan], places: Mapping[Node, int]
) -> str:
    """Why nobody keeps zeros beside the channels of an array; nothing where somebody does.

    Kernels of maps write them with what they compute. Into a copy that outlives the step, so does
    the one that makes it, and updates leave them as they are.
    """
    node, place = channel[0], places[channel[0]]
    if any(other.shape != node.shape for other, number in places.items() if number == place):
        return "they are also seen in another shape"
    if place in {places[copy.state] for copy in graph.copies}:
        return ""
    writers = [k for k in kernels if any(places[n] == place for n in k.stored)]
    other = next((k for k in writers if not _only_maps(k)), None)
    return f"{other.name} writes no zeros beside them" if other is not None else ""


def padding_note(
    kernel: KernelPlan, graph: Graph, kernels: Sequence[KernelPlan], places: Mapping[Node, int],
    layouts: Mapping[Node, Layout],
) -> str:  # fmt: skip
    """What becomes of few channels that a convolution reads, for people."""
    notes = []
    for channel in few_channels(kernel):
        node, dimension = channel
        count, padding = node.shape[dimension], layouts[node].padding
        if padding is not None:
            notes.append(f"; {count} channels padded to {padding[1]}, one copy a pixel")
            continue
        why = "they are fed so" if node.kind == "input" else "others decide how they lie"
        why = padding_refusal(channel, graph, kernels, places) or why
        notes.append(f"; {count} channels as they are: {why}")
    return "".join(dict.fromkeys(notes))


def _only_maps(kernel: KernelPlan) -> bool:
    return kernel.strategy == "nest" and all(n.op_equation().is_map for n in kernel.nodes)


def _is_padded(channel: Channel) -> bool:
    """Whether the channels of a pixel are several copies, and with some zeros one."""
    node, dimension = channel
    count = node.shape[dimension]
    several = count < _power_of_two(count)
    return node.dtype.is_float and several and count * node.dtype.size < _COPY_BYTES


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
