"""The document of a measurement as a table: what no GPU measured says so."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.parts import SANITIZERS, TORCH

Document = dict[str, Any]
# Relative distance of gradients: from float64, in 16 bits from a step that rounds as often.
GRADIENTS = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 2e-2, "fp16": 1e-2}
NOT_MEASURED = "not measured"


def text(document: Document) -> str:
    """What was measured on, a line a kernel, the step beside PyTorch's, and what was checked."""
    return "\n".join([
        *_machine_lines(document), "", *_kernel_lines(document), "", *_step_lines(document), "",
        *_check_lines(document), *_trouble_lines(document),
    ])  # fmt: skip


def result(document: Document, name: str) -> Any:
    """What a part found, None where it found nothing."""
    return document["parts"].get(name, {}).get("result")


def _machine_lines(document: Document) -> list[str]:
    facts = result(document, "machine") or {}
    shape = ", ".join(f"{name} {value}" for name, value in document["shape"].items())
    return [
        f"VGG16, {document['precision']}, {shape}",
        ", ".join(f"{name} {value}" for name, value in facts.items() if value),
    ]


def _kernel_lines(document: Document) -> list[str]:
    lines = [f"{'kernel':36} {'ms':>12} {'TFLOP/s':>9} {'GB/s':>7} {'% of ceiling':>13}"]
    ceilings = result(document, "ceilings")
    for kernel in result(document, "kernels") or []:
        lines.append(f"{kernel['name']:36} {_rates(kernel, ceilings, document['timed'])}")
    return lines


def _rates(kernel: Document, ceilings: dict[str, float] | None, timed: bool) -> str:
    seconds = kernel["seconds"]
    if not timed or not seconds:
        return f"{NOT_MEASURED:>12} {'-':>9} {'-':>7} {'-':>13}"
    flops, moved = kernel["flops"] / seconds, kernel["bytes"] / seconds
    share = "-"
    if ceilings:
        share = f"{100 * max(flops / ceilings['bf16'], moved / ceilings['copy']):.0f}"
    return f"{seconds * 1e3:12.3f} {flops / 1e12:9.1f} {moved / 1e9:7.0f} {share:>13}"


def _step_lines(document: Document) -> list[str]:
    """Times are the slower of the two medians."""
    batch, timed = document["shape"]["batch"], document["timed"]
    ours = result(document, "step")
    lines = [f"{'graphc, one graph of launches':52} {_speed(ours, batch, timed)}"]
    if ours and not timed:
        lines.append(f"{'  of device memory, as planned':52} {ours['bytes'] / 2**20:,.0f} MiB")
    for mode, (what, _) in TORCH.items():
        found = result(document, f"torch_{mode}")
        ratio = ""
        if found and ours and timed:
            ratio = f"  x{max(found['seconds']) / max(ours['seconds']):.2f}"
        lines.append(f"{f'PyTorch, {what}':52} {_speed(found, batch, timed)}{ratio}")
    ceilings = result(document, "ceilings")
    if ceilings:
        lines.append(
            f"ceilings: a copy {ceilings['copy'] / 1e9:,.0f} GB/s, a product of bf16 matrices "
            f"{ceilings['bf16'] / 1e12:,.0f} TFLOP/s"
        )
    else:
        lines.append(f"ceilings: {NOT_MEASURED}")
    return lines


def _speed(found: Document | None, batch: int, timed: bool) -> str:
    if not found or not timed:
        return f"{NOT_MEASURED:>12}"
    seconds, memory = max(found["seconds"]), f"{found['bytes'] / 2**20:,.0f} MiB"
    return f"{seconds * 1e3:12.3f} ms {batch / seconds:8.0f} images/s {memory:>12}"


def _check_lines(document: Document) -> list[str]:
    found = {tool: result(document, f"sanitizer_{tool}") for tool in SANITIZERS}
    return [
        f"gradients of a small step: {_gradients(document)}",
        f"kernels against float64 on fresh inputs: {_kernels(document)}",
        f"two runs end in the same bytes: {_yes(result(document, 'repeat'))}",
        "compute-sanitizer: " + ", ".join(f"{tool} {_clean(one)}" for tool, one in found.items()),
    ]


def _gradients(document: Document) -> str:
    errors = result(document, "gradients")
    if not errors:
        return NOT_MEASURED
    texts = []
    limit = GRADIENTS[document["precision"]]
    for reference, what in (("same", "the processor's in 16 bits"), ("float64", "float64")):
        if reference not in errors:
            continue
        worst, name = max((error, name) for name, error in errors[reference].items())
        text = f"{len(errors[reference])} at most {worst:.1e} from {what} ({name})"
        if reference == "same" or "same" not in errors:
            text += f", {'within' if worst <= limit else 'BEYOND'} {limit:.0e}"
        texts.append(text)
    return "; ".join(texts)


def _kernels(document: Document) -> str:
    found = result(document, "checks")
    if not found:
        return NOT_MEASURED
    records = found["kernels"]
    wrong = [f"{record['name']}: {line}" for record in records for line in record["wrong"]]
    elements = sum(record["elements"] for record in records)
    counted = f"{len(records)} of {found['of']}, {elements:,} elements"
    return "\n  ".join([f"{counted}, {len(wrong)} WRONG" if wrong else f"{counted}, right", *wrong])


def _yes(same: bool | None) -> str:
    return NOT_MEASURED if same is None else "yes" if same else "NO"


def _clean(found: Document | None) -> str:
    return NOT_MEASURED if found is None else "clean" if found["clean"] else "FINDS ERRORS"


def _trouble_lines(document: Document) -> list[str]:
    """Parts that did not end, with the last line that they said."""
    lines = []
    for name, part in document["parts"].items():
        if part["status"] not in ("done", "needs a GPU"):
            said = part.get("said", "").strip().splitlines()
            lines.append(f"{name}: {part['status']}" + (f": {said[-1]}" if said else ""))
    return ["", *lines] if lines else []
