"""A document of results as tables to read; figures are medians of the raw times it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cpu.peers import BF16, CEILINGS, PEERS

Record = dict[str, Any]
Row = list[str]
TORCH = ("torch", "torch_channels_last")


def text(document: dict[str, Any]) -> str:
    """The machine, then every section's table and who was skipped."""
    parts = [machine_text(document)]
    for name, records in document["sections"].items():
        parts += [TITLES[name], TABLES[name](records)]
        reasons = skipped_text(records)
        if reasons:
            parts.append(reasons)
    return "\n\n".join(parts)


def machine_text(document: dict[str, Any]) -> str:
    """Three lines."""
    m = document["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items() if version)
    changed = f" with {m['changed_files']} changed files" if m["changed_files"] else ""
    rounds = document.get("rounds", 1)
    return (
        f"{m['cpu']} ({m['flags_level']}), {m['threads']} of {m['cores']} cores, isa {m['isa']}\n"
        f"{m['compiler']}; Python {m['python']}; {packages}\n"
        f"{m['date']}, graphc at {m['git'][:12] or 'unknown'}{changed}; "
        f"medians of {document['repeat']}{f' in each of {rounds} rounds' if rounds > 1 else ''}"
    )


def table(header: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as their longest entry; the first one is aligned to the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Row) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "-" * len(line(header)), *map(line, rows)])


def skipped_text(records: Sequence[Record]) -> str:
    """Peers that were skipped, once for each reason."""
    found: dict[str, list[str]] = {}
    for record in records:
        for name, reason in record.get("skipped", {}).items():
            found.setdefault(f"{PEERS[name].label} skipped: {reason}", []).append(label(record))
    return "\n".join(
        f"{reason}" + ("" if len(where) == len(records) else f" ({'; '.join(where)})")
        for reason, where in found.items()
    )


def label(record: Record) -> str:
    """What the first column says."""
    return f"{record['case']['name']}, {record['case']['what']}"


def peers_of(records: Sequence[Record], key: str) -> list[str]:
    """Peers that have a value in any record, in the order of ``PEERS``."""
    return [name for name in PEERS if any(name in record[key] for record in records)]


def fastest(record: Record, peers: Sequence[str]) -> str | None:
    """The peer with the smallest median."""
    found = [name for name in peers if name in record["median"]]
    return min(found, key=record["median"].get, default=None)


def ratio(record: Record, peers: Sequence[str]) -> float | None:
    """How many times graphc is as fast as the fastest of these peers that computes in float32."""
    ratios = [record["ratio"][name] for name in peers if name in record["ratio"]]
    return min(ratios, default=None)


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def rate(record: Record, name: str, work: float, unit: float = 1.0) -> float | None:
    """Work by second of a peer's median."""
    return work / record["median"][name] / unit if name in record["median"] else None


def vgg16_table(records: Sequence[Record]) -> str:
    """Images by second; the ratios are graphc's to the fastest peer in float32 of its group, and
    in bf16.
    """
    peers = peers_of(records, "median")
    float32 = [name for name in peers if name not in ("graphc", *BF16)]
    rows = [
        [
            label(record),
            *(number(rate(record, name, record["case"]["batch"])) for name in peers),
            number(ratio(record, float32)),
            number(bf16_ratio(record)),
        ]
        for record in records
    ]
    ratios = ["ratio to best float32", "ratio in bf16"]
    return table(["images/s", *(PEERS[n].label for n in peers), *ratios], rows)


def bf16_ratio(record: Record) -> float | None:
    """How many times graphc in bf16 is as fast as PyTorch in bf16, each by graphc in float32."""
    ours, theirs = (record["ratio"].get(name) for name in BF16)
    return theirs / ours if ours and theirs else None


def work_table(records: Sequence[Record]) -> str:
    """GFLOP/s of the direct method, and relative L2 errors against float64; ratios are those of
    graphc as it chooses, and of its direct method.
    """
    rows = []
    for record in records:
        best = fastest(record, TORCH)
        rows.append(
            [
                label(record),
                *(number(_milli(record, name), ".3f") for name in ("graphc", best)),
                *(number(_gflops(record, name), ".1f") for name in ("graphc", best)),
                number(ratio(record, TORCH)),
                number(direct_ratio(record)),
                number(record["error"].get("graphc"), ".1e"),
                number(record["error"].get(best), ".1e"),
                {None: "-", "torch": "NCHW"}.get(best, "channels_last"),
            ]
        )
    header = ["", "graphc ms", "PyTorch ms", "graphc GF/s", "PyTorch GF/s", "ratio"]
    return table([*header, "direct", "graphc error", "PyTorch error", "PyTorch layout"], rows)


def direct_ratio(record: Record) -> float | None:
    """How many times graphc's direct method is as fast as PyTorch."""
    best, ours = fastest(record, TORCH), record["median"].get("graphc_exact")
    return record["median"][best] / ours if best and ours else None


def layers_table(records: Sequence[Record]) -> str:
    """The layers, then each pass over the whole network: layers as often as they occur."""
    return "\n".join([work_table(records), "", sums_table(records)])


def sums_table(records: Sequence[Record]) -> str:
    """Time of each pass over all layers, where graphc and a peer have all of them."""
    rows = []
    for what in ("forward", "dgrad", "wgrad"):
        chosen = [r for r in records if r["case"]["what"] == what and r["times"]]
        complete = [r for r in chosen if "graphc" in r["median"] and fastest(r, TORCH)]
        if not complete or len(complete) < len(chosen):
            continue
        ours = sum(r["times"] * r["median"]["graphc"] for r in complete)
        theirs = sum(r["times"] * r["median"][fastest(r, TORCH)] for r in complete)
        work = sum(r["times"] * r["flops"] for r in complete) / 1e9
        cells = (ours * 1e3, theirs * 1e3, work / ours, work / theirs)
        count = sum(r["times"] for r in complete)
        rows.append(
            [f"{what} of {count} layers", *(f"{c:.1f}" for c in cells), f"{theirs / ours:.2f}"]
        )
    header = ["sums", "graphc ms", "PyTorch ms", "graphc GF/s", "PyTorch GF/s", "ratio"]
    return table(header, rows)


def memory_table(records: Sequence[Record]) -> str:
    """GB/s of the bytes that must move, beside the faster triad of the same minutes."""
    rows = []
    for record in records:
        best, top = fastest(record, TORCH), ceiling(record)
        ours = rate(record, "graphc", record["bytes"], 1e9)
        rows.append(
            [
                label(record),
                *(number(_milli(record, name)) for name in ("graphc", best)),
                number(ours, ".1f"),
                number(rate(record, best, record["bytes"], 1e9), ".1f"),
                number(top, ".1f"),
                number(None if ours is None or top is None else 100 * ours / top, ".0f"),
                number(ratio(record, TORCH)),
            ]
        )
    header = ["", "graphc ms", "PyTorch ms", "graphc GB/s", "PyTorch GB/s", "triad GB/s"]
    return table([*header, "graphc % of triad", "ratio"], rows)


def ceiling(record: Record) -> float | None:
    """GB/s of the faster triad."""
    rates = [
        rate(record, name, record["facts"][name]["bytes"], 1e9)
        for name in CEILINGS
        if name in record["median"]
    ]
    return max(rates, default=None)


def compile_table(records: Sequence[Record]) -> str:
    """Medians of the parts in seconds."""
    rows = [
        [
            f"{PEERS[name].label}, {record['case']['what']}",
            *(f"{parts[key]:.2f}" for key in ("start", "build", "first")),
            f"{record['median'][name]:.2f}",
        ]
        for record in records
        for name, parts in record["parts"].items()
    ]
    return table(["seconds", "imports", "build", "first step", "in all"], rows)


def rss_table(records: Sequence[Record]) -> str:
    """MiB at the peak, with what the imports alone take."""
    peers = peers_of(records, "peak")
    rows = [
        [f"{label(r)}", *(number(_mib(r["peak"], name), ".0f") for name in peers)] for r in records
    ]
    first = records[0] if records else {"imports": {}}
    rows.append(["imports alone", *(number(_mib(first["imports"], n), ".0f") for n in peers)])
    return table(["peak MiB", *(PEERS[name].label for name in peers)], rows)


def _mib(values: dict[str, int], name: str) -> float | None:
    return values[name] / 2**20 if name in values else None


def _milli(record: Record, name: str | None) -> float | None:
    return record["median"][name] * 1e3 if name in record["median"] else None


def _gflops(record: Record, name: str | None) -> float | None:
    return rate(record, name, record["flops"], 1e9)


TITLES = {
    "vgg16": "VGG16",
    "layers": "Convolutions of VGG16 at batch 8, GFLOP/s of the direct method",
    "general": "Other shapes",
    "memory": "Operations that wait for memory",
    "compile": "From the start of a process to its first training step of VGG16",
    "rss": "Peak memory of a process that trains VGG16",
}
TABLES: dict[str, Callable[[Sequence[Record]], str]] = {
    "vgg16": vgg16_table,
    "layers": layers_table,
    "general": work_table,
    "memory": memory_table,
    "compile": compile_table,
    "rss": rss_table,
}
