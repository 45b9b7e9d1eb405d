"""What a person sees of a search for faster kernels: a line a variant, and a table at the end."""

from __future__ import annotations

import math

from rich.table import Table

from graphc.tune.search import Trial
from graphc.tune.tune import Report, TunedKernel


def trial_line(trial: Trial) -> str:
    """One variant on one line."""
    dropped = ", dropped" if trial.runs == 1 else ""
    return (
        f"{trial.kernel}: {trial.variant}: {_time(trial.seconds)} against "
        f"{_time(trial.default_seconds)}{dropped}"
    )


def tuning_table(report: Report) -> Table:
    """What was tried and what was chosen, a row a distinct kernel, the dearest first."""
    table = Table("kernel", "tried", "untuned", "tuned", "chosen", box=None)
    for kernel in report.kernels:
        more = f" and {len(kernel.names) - 1} like it" if len(kernel.names) > 1 else ""
        table.add_row(
            f"{kernel.names[0]}{more}", str(kernel.tried), _time(kernel.default_seconds),
            _time(kernel.seconds), _chosen(kernel),
        )  # fmt: skip
    return table


def tuning_summary(report: Report) -> str:
    """What the kernels gained in all, and how to go on."""
    before, after = report.totals
    tried = sum(k.tried for k in report.kernels if k.origin in ("searched", "cut short"))
    ended = "interrupted after" if report.interrupted else "in"
    lines = [f"tuned: {tried} variants {ended} {report.seconds:.1f} s; choices in {report.path}"]
    if after:
        lines.append(
            f"these kernels alone: {_time(after)} a step instead of {_time(before)} "
            f"({before / after:.2f}x)"
        )
    rest = sum(k.origin in ("not reached", "cut short") for k in report.kernels)
    if rest:
        lines.append(f"{rest} kernels are not searched to the end; a longer --tune goes on")
    return "\n".join(lines)


def _chosen(kernel: TunedKernel) -> str:
    if kernel.origin == "not reached":
        return "not reached"
    note = "" if kernel.origin == "searched" else f" ({kernel.origin})"
    return f"{'as it was' if kernel.chosen == kernel.default else kernel.chosen}{note}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
