"""The documents of `graphc show` as text for a terminal or a file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from graphc.inspect.table import amount, binary_bytes, table

Document = dict[str, Any]
Paint = Callable[[str], str]


def document_text(document: Document, paint: Paint) -> str:
    """Each part of a document under its heading, in the order of the parts."""
    stage = document["stage"]
    if stage == "kernels":
        parts = [_kernel_table(document["kernels"])]
    elif stage == "schedule":
        parts = [
            _kernel_plans(document["kernels"]), _buffers(document["buffers"]), _arena(document)
        ]  # fmt: skip
    else:
        parts = [text(document[key]) for key, text in _SECTIONS.items() if document.get(key)]
    if "files" in document:
        parts.append(_files(document["files"], paint))
    return "\n\n".join(part.rstrip() for part in parts)


def _declared(places: Sequence[Document]) -> str:
    texts = [textwrap.indent(f"{p['location']}:\n{p['text']}", "  ") for p in places]
    return "\n".join(["declared", *texts])


def _nodes(nodes: Sequence[Document]) -> str:
    return "\n".join(["formulas", *_node_lines(nodes)])


def _gradients(nodes: Sequence[Document]) -> str:
    return "\n".join(["gradients, one formula a path", *_node_lines(nodes)])


def _node_lines(nodes: Sequence[Document]) -> list[str]:
    """Formulas under the layer that they belong to."""
    lines: list[str] = []
    layer = None
    for node in nodes:
        if node["layer"] != layer:
            layer = node["layer"]
            lines.append(f"  {layer}" if layer else "  -")
        what = node["formula"] or f"{node['kind']} {node['label']}"
        lines += [f"    {what}", f"        {node['type']}, {node['location']}"]
    return lines


def _results(results: dict[str, str]) -> str:
    pairs = [f"  of {value}: {slope}" for value, slope in results.items()]
    return "\n".join(["gradients of what is trained", *pairs])


def _kernel_table(kernels: Sequence[Document]) -> str:
    """Numbers first, then each kernel's formulas: they are longer than any column."""
    rows = [[k["name"], amount(k["flops"]), binary_bytes(k["bytes"]), k["file"]] for k in kernels]
    lines = table(["kernel", "FLOPs:", "bytes:", "file"], rows)
    for kernel in kernels:
        lines += ["", kernel["name"], *(f"  {formula}" for formula in kernel["formulas"])]
    return "\n".join(lines)


def _kernel_names(kernels: Sequence[Document]) -> str:
    rows = [
        [f"  {k['name']}", amount(k["flops"]), binary_bytes(k["bytes"]), k["file"]] for k in kernels
    ]
    return "\n".join(table(["kernels", "FLOPs:", "bytes:", "file"], rows))


def _kernel_plans(kernels: Sequence[Document]) -> str:
    lines = []
    for number, kernel in enumerate(kernels, 1):
        lines += [
            f"{number:3} {kernel['name']}",
            f"      {kernel['strategy']}: {kernel['reason']}",
            f"      fuses  {', '.join(kernel['fused'])}",
            f"      reads  {', '.join(kernel['reads']) or '-'}",
            f"      writes {', '.join(kernel['writes'])}",
        ]
    return "\n".join(lines)


def _buffers(buffers: Sequence[Document]) -> str:
    rows = [
        [
            b["name"], b["type"], b["layout"], binary_bytes(b["bytes"]), b["storage"],
            f"{b['offset'] or 0:,}" if b["storage"] == "arena" else "",
        ]
        for b in buffers
    ]  # fmt: skip
    columns = ["buffer", "type", "layout", "size:", "storage", "at byte:"]
    return "\n".join(table(columns, rows))


def _arena(document: Document) -> str:
    size = document["arena_bytes"]
    if "memory" not in document:
        return f"arena: {size:,} bytes ({binary_bytes(size)}), blocks for {document['simd']}"
    rows = [[kind, f"{count:,}", binary_bytes(count)] for kind, count in document["memory"].items()]
    return "\n".join(table(["device memory", "bytes:", "size:"], rows))


def _files(files: Sequence[Document], paint: Paint) -> str:
    texts = [f"---- {file['name']}\n{paint(file['text']).rstrip()}" for file in files]
    return "\n\n".join(texts)


_SECTIONS: dict[str, Callable[[Any], str]] = {
    "declared": _declared, "nodes": _nodes, "gradients": _gradients, "results": _results,
    "kernels": _kernel_names,
}  # fmt: skip
