"""`graphc show`: one document a stage, made from the compiler's own types, as JSON or text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from graphc.errors import UserError
from graphc.inspect.declaration import statement
from graphc.inspect.select import Selection, select
from graphc.inspect.subject import Generated, Subject
from graphc.inspect.text import document_text
from graphc.ir.graph import Node
from graphc.ir.layout import layout_text
from graphc.ir.routine import Routine
from graphc.ir.schedule import Buffer, KernelPlan
from graphc.ir.show import equation_text
from graphc.lower.routines import buffer_order

STAGES = ("graph", "backward", "schedule", "kernels", "source")
Document = dict[str, Any]
Paint = Callable[[str], str]


def show(subject: Subject, stage: str | None, node: str | None, as_json: bool, paint: Paint) -> str:
    """One stage of a network, or of one node of it, as text or as one JSON document.

    Without a stage: of a node its formulas, gradients, declaration and sources; of a whole network
    its formulas. ``paint`` colours C text.

    Raises:
        UserError: nothing has that name, or a file without a loss has no gradients.
    """
    document = show_document(subject, stage, node)
    return json.dumps(document, indent=1) if as_json else document_text(document, paint)


def show_document(subject: Subject, stage: str | None, node: str | None) -> Document:
    """What ``show`` shows."""
    head: Document = {"network": subject.name, "stage": stage or ("node" if node else "graph")}
    if stage is None and node is None:
        return head | graph_stage(subject, Selection(subject.forward.nodes, (), ()))
    selection = select(subject, node)
    return head | ({"node": node} if node else {}) | _MAKERS[head["stage"]](subject, selection)


def graph_stage(subject: Subject, selection: Selection) -> Document:
    """Declared nodes with their formulas."""
    return {"nodes": [node_record(node) for node in selection.nodes]}


def backward_stage(subject: Subject, selection: Selection) -> Document:
    """Gradient nodes with their formulas, and which of them are the parameters' gradients."""
    if not subject.slopes:
        raise UserError(f"{subject.name} has no gradients: it defines no `loss` of floating values")
    chosen = set(selection.gradients)
    results = {wanted.label: slope.label for wanted, slope in subject.slopes if slope in chosen}
    return {"gradients": [node_record(n) for n in selection.gradients], "results": results}


def schedule_stage(subject: Subject, selection: Selection) -> Document:
    """Kernels in the order in which they run, the buffers they touch, and the arena."""
    schedule = subject.generated.schedule
    plans = [plan for plan in schedule.kernels if plan.name in set(selection.kernels)]
    touched = {place for plan in plans for place in buffer_order(plan, schedule)}
    return {
        "simd": subject.generated.simd,
        "kernels": [_plan_record(plan, subject) for plan in plans],
        "buffers": [_buffer_record(b) for n, b in enumerate(schedule.buffers) if n in touched],
        "arena_bytes": schedule.arena_bytes,
        **_memory(subject.generated),
    }


def kernels_stage(subject: Subject, selection: Selection) -> Document:
    """A line for every kernel: formulas, operations, bytes, file."""
    chosen = set(selection.kernels)
    routines = [r for r in subject.generated.routines if r.name in chosen]
    return {
        "simd": subject.generated.simd,
        "kernels": [_routine_record(r, subject.generated) for r in routines],
    }


def source_stage(subject: Subject, selection: Selection) -> Document:
    """The text of the generated files: of some kernels, or with all of them what they share."""
    texts = subject.generated.texts
    whole = len(selection.kernels) == len(subject.generated.routines)
    names = (
        list(texts) if whole else [subject.generated.file_name(name) for name in selection.kernels]
    )
    files = [{"name": name, "text": texts[name]} for name in names]
    return {"simd": subject.generated.simd, "files": files}


def node_stage(subject: Subject, selection: Selection) -> Document:
    """One node from its declaration to its sources."""
    ops = [n for n in selection.nodes if n.equation is not None]
    places = dict.fromkeys(node.location for node in (ops or selection.gradients))
    slopes = backward_stage(subject, selection) if subject.slopes else {"gradients": []}
    return {
        "declared": [{"location": str(p), "text": statement(p)} for p in places],
        **graph_stage(subject, selection),
        **slopes,
        **kernels_stage(subject, selection),
        **source_stage(subject, selection),
    }


_MAKERS: dict[str, Callable[[Subject, Selection], Document]] = {
    "graph": graph_stage, "backward": backward_stage, "schedule": schedule_stage,
    "kernels": kernels_stage, "source": source_stage, "node": node_stage,
}  # fmt: skip


def node_record(node: Node) -> Document:
    """A node for people: what it is called, what it is, how it is computed."""
    return {
        "label": node.label,
        "layer": node.layer,
        "kind": node.kind,
        "type": f"{node.dtype.value}[{', '.join(map(str, node.shape))}]",
        "formula": None if node.equation is None else equation_text(node),
        "location": str(node.location),
    }


def _plan_record(plan: KernelPlan, subject: Subject) -> Document:
    schedule = subject.generated.schedule
    written = {schedule.places[node] for node in plan.stored}
    places = buffer_order(plan, schedule)
    return {
        "name": plan.name,
        "strategy": plan.strategy,
        "reason": plan.reason,
        "fused": [node.label for node in plan.nodes],
        "reads": [schedule.buffers[p].name for p in places if p not in written],
        "writes": [schedule.buffers[p].name for p in places if p in written],
    }


def _buffer_record(buffer: Buffer) -> Document:
    return {
        "name": buffer.name,
        "type": f"{buffer.dtype.value}[{', '.join(map(str, buffer.shape))}]",
        "bytes": buffer.bytes,
        "layout": layout_text(buffer.layout),
        "storage": buffer.storage,
        "offset": buffer.offset if buffer.storage == "arena" else None,
    }


def _memory(generated: Generated) -> Document:
    """Bytes of device memory by purpose, with their sum."""
    if generated.memory is None:
        return {}
    return {"memory": asdict(generated.memory) | {"total": generated.memory.total}}


def _routine_record(routine: Routine, generated: Generated) -> Document:
    return {
        "name": routine.name,
        "formulas": list(routine.title),
        "flops": routine.flops,
        "bytes": routine.bytes,
        "file": generated.file_name(routine.name),
    }
