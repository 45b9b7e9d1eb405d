"""Finding what a person means by a name: a layer, a parameter, an op or a generated kernel."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from graphc.errors import UserError
from graphc.inspect.subject import Subject
from graphc.ir.graph import Node
from graphc.ir.schedule import KernelPlan


@dataclass(frozen=True)
class Selection:
    """Declared ops, gradient ops and the names of kernels, each in its own order."""

    nodes: tuple[Node, ...]
    gradients: tuple[Node, ...]
    kernels: tuple[str, ...]


def select(subject: Subject, name: str | None) -> Selection:
    """What belongs to a name; without one, everything.

    Raises:
        UserError: nothing has that name, with the names that are like it.
    """
    plans = subject.generated.schedule.kernels
    if name is None:
        return Selection(subject.forward.nodes, subject.backward, tuple(p.name for p in plans))
    kernel = next((plan for plan in plans if plan.name == name), None)
    found = _of_kernel(subject, kernel) if kernel else _of_value(subject, plans, name)
    if not (found.nodes or found.gradients or found.kernels):
        raise UserError(_unknown(subject, plans, name))
    return found


def _of_kernel(subject: Subject, kernel: KernelPlan) -> Selection:
    """A kernel, and the declared ops that its own were made from."""
    marks = {(node.label, node.layer) for node in kernel.nodes}
    nodes, slopes = (
        tuple(n for n in group if n.equation is not None and (n.label, n.layer) in marks)
        for group in (subject.forward.nodes, subject.backward)
    )
    return Selection(nodes, slopes, (kernel.name,))


def _of_value(subject: Subject, plans: Iterable[KernelPlan], name: str) -> Selection:
    """A layer, or a value and the ops that read it."""
    read = {node for node in subject.forward.nodes for o in node.inputs if o.label == name}
    nodes = tuple(n for n in subject.forward.nodes if n in read or belongs(n, name))
    slopes = tuple(n for n in subject.backward if belongs(n, name))
    kernels = tuple(p.name for p in plans if any(belongs(n, name) for n in p.nodes))
    if not kernels:  # inlined into other ops: the kernels that read it
        kernels = tuple(p.name for p in plans if _reads(p, name))
    return Selection(nodes, slopes, kernels)


def belongs(node: Node, name: str) -> bool:
    """Whether a node is of that layer, is called so, or is the gradient of what is called so."""
    if node.layer == name or node.layer.startswith(f"{name}."):
        return True
    return name in (node.label, plain_label(node.label), described(node.label))


def plain_label(label: str) -> str:
    """``d x`` of ``partial sums of d x (2 paths)``."""
    return re.sub(r" \(\d+ paths\)$", "", label.removeprefix("partial sums of "))


def described(label: str) -> str:
    """``x`` of ``d x``."""
    return plain_label(label).removeprefix("d ")


def _reads(plan: KernelPlan, name: str) -> bool:
    return any(operand.label == name for node in plan.nodes for operand in node.inputs)


def _unknown(subject: Subject, plans: Iterable[KernelPlan], name: str) -> str:
    nodes = (*subject.forward.nodes, *subject.backward)
    known = {n.layer for n in nodes} | {n.label for n in nodes} | {p.name for p in plans}
    close = difflib.get_close_matches(name, sorted(known - {""}), n=3)
    advice = f"did you mean {' or '.join(close)}?" if close else "there is nothing like it."
    layers = dict.fromkeys(n.layer for n in subject.forward.nodes if n.layer)
    return (
        f"{subject.name} has no layer, value or kernel '{name}'; {advice}\n"
        f"  The layers are {', '.join(layers) or 'not named'}; "
        "--stage kernels lists the kernels."
    )
