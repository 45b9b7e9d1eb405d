"""One picture a section, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu import report
from benchmarks.cpu.peers import PEERS
from benchmarks.cpu.report import TITLES, TORCH, Record

# Colours that stay apart for colour-blind readers (Okabe and Ito); graphc is always the same one.
COLOURS = dict(
    zip(
        PEERS,
        (
            *("#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#F0E442", "#E69F00"),
            *("#000000", *["#999999"] * 3),
        ),
        strict=True,
    )
)
PASSES = ("forward", "dgrad", "wgrad")
Axes = Any


def draw(document: dict[str, Any], folder: Path) -> Iterator[str]:
    """Draw every section into ``folder``; one line a picture, or why there is none."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        yield "no pictures: matplotlib is not installed (pip install 'graphc-compiler[bench]')"
        return
    for name, records in document["sections"].items():
        if not records:
            continue
        figure = PICTURES[name](pyplot, records)
        m = document["machine"]
        machine = f"{m['cpu']}, {m['threads']} threads, {m['isa']}, {m['date'][:10]}"
        figure.suptitle(f"{TITLES[name]}\n{machine}", fontsize=10)
        path = folder / f"cpu{'_avx2' if m['isa'] == 'avx2' else ''}_{name}.png"
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
        yield f"picture: {path}"


def bars(
    axes: Axes,
    labels: Sequence[str],
    series: dict[str, Sequence[float | None]],
    form: str = "{:.3g}",
) -> None:
    """Bars side by side for each label, one colour a peer, each with its figure at its end."""
    height = 0.8 / max(1, len(series))
    for number, (name, values) in enumerate(series.items()):
        places = [i + (number + 0.5) * height - 0.4 for i in range(len(labels))]
        drawn = axes.barh(
            places, [v or 0.0 for v in values], height, label=PEERS[name].label, color=COLOURS[name]
        )
        texts = ["" if v is None else form.format(v) for v in values]
        axes.bar_label(drawn, texts, padding=2, fontsize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(figure: Any, axes: Axes) -> None:
    """One legend below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)


def panels(pyplot: Any, count: int, rows: int) -> tuple[Any, Sequence[Axes]]:
    """A figure of panels in a row, tall enough for this many groups of bars."""
    figure, axes = pyplot.subplots(
        1, count, figsize=(max(8.0, 4.2 * count), 1.8 + 0.5 * rows), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    return figure, axes[0]


def vgg16_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """Images by second: training beside inference."""
    kinds = [w for w in ("train", "infer") if any(r["case"]["what"] == w for r in records)]
    peers = report.peers_of(records, "median")
    figure, axes = panels(pyplot, len(kinds), 2 * len(records) // len(kinds))
    for one, what in zip(axes, kinds, strict=True):
        chosen = [r for r in records if r["case"]["what"] == what]
        rates = {n: [report.rate(r, n, r["case"]["batch"]) for r in chosen] for n in peers}
        bars(one, [r["case"]["name"] for r in chosen], rates)
        one.set_title({"train": "training", "infer": "inference"}[what], fontsize=10)
        one.set_xlabel("images/s (more is better)")
    legend(figure, axes[0])
    return figure


def work_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """GFLOP/s of the direct method: a panel for each pass."""
    kinds = [w for w in PASSES if any(r["case"]["what"] == w for r in records)]
    peers = report.peers_of(records, "median")
    longest = max(sum(r["case"]["what"] == w for r in records) for w in kinds)
    figure, axes = panels(pyplot, len(kinds), longest)
    for one, what in zip(axes, kinds, strict=True):
        chosen = [r for r in records if r["case"]["what"] == what]
        rates = {n: [report.rate(r, n, r["flops"], 1e9) for r in chosen] for n in peers}
        bars(one, [r["case"]["name"] for r in chosen], rates, "{:.0f}")
        one.set_title(what, fontsize=10)
        one.set_xlabel("GFLOP/s of the direct method")
    legend(figure, axes[0])
    return figure


def general_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """How many times as fast as the better layout of PyTorch."""
    kinds = [w for w in PASSES if any(r["case"]["what"] == w for r in records)]
    longest = max(sum(r["case"]["what"] == w for r in records) for w in kinds)
    figure, axes = panels(pyplot, len(kinds), longest)
    for one, what in zip(axes, kinds, strict=True):
        chosen = [r for r in records if r["case"]["what"] == what and report.ratio(r, TORCH)]
        names = [r["case"]["name"] for r in chosen]
        bars(one, names, {"graphc": [report.ratio(r, TORCH) for r in chosen]}, "{:.2f}")
        one.axvline(1.0, color="black", linewidth=1)
        one.set_title(what, fontsize=10)
        one.set_xlabel("PyTorch's time / graphc's time", fontsize=8)
    return figure


def memory_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """GB/s of the bytes that must move, with a mark where the stream triad of those minutes is."""
    figure, (axes,) = panels(pyplot, 1, len(records))
    peers = [n for n in report.peers_of(records, "median") if not n.startswith("triad")]
    rates = {n: [report.rate(r, n, r["bytes"], 1e9) for r in records] for n in peers}
    bars(axes, [report.label(r) for r in records], rates, "{:.0f}")
    for place, record in enumerate(records):
        top = report.ceiling(record)
        if top is not None:
            text = "stream triad" if place == 0 else None
            axes.plot([top, top], [place - 0.45, place + 0.45], color="black", label=text)
    axes.set_xlabel("GB/s of the bytes that must move")
    legend(figure, axes)
    return figure


def compile_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """Parts of the time up to the first step, one after the other."""
    rows = [(r["case"]["what"], n, p) for r in records for n, p in r["parts"].items()]
    figure, (axes,) = panels(pyplot, 1, len(rows))
    left = [0.0] * len(rows)
    parts = {"start": "imports", "build": "build", "first": "first step"}
    for (key, text), colour in zip(parts.items(), ("#999999", "#D55E00", "#56B4E9"), strict=True):
        lengths = [row[2][key] for row in rows]
        axes.barh(range(len(rows)), lengths, left=left, label=text, color=colour)
        left = [a + b for a, b in zip(left, lengths, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.1f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{PEERS[name].label}, {state}" for state, name, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds")
    legend(figure, axes)
    return figure


def rss_picture(pyplot: Any, records: Sequence[Record]) -> Any:
    """Peak resident memory by batch."""
    figure, (axes,) = panels(pyplot, 1, 2 * len(records))
    sizes = {
        n: [r["peak"][n] / 2**20 if n in r["peak"] else None for r in records]
        for n in report.peers_of(records, "peak")
    }
    bars(axes, [r["case"]["name"] for r in records], sizes, "{:.0f}")
    axes.set_xlabel("MiB (less is better)")
    legend(figure, axes)
    return figure


PICTURES: dict[str, Callable[[Any, Sequence[Record]], Any]] = {
    "vgg16": vgg16_picture,
    "layers": work_picture,
    "general": general_picture,
    "memory": memory_picture,
    "compile": compile_picture,
    "rss": rss_picture,
}
