"""The text of every stage of a few small nets: a change of generated code shows in the diff."""

import pytest

from graphc.backends.c.emit import emit
from graphc.backends.c.mapping import BLOCKS
from graphc.ir.schedule import Schedule
from graphc.ir.show import graph_text
from graphc.lower.routines import lower
from graphc.passes.pipeline import run_passes
from graphc.schedule.plan import make_schedule
from tests.conftest import Golden
from tests.nets import NETS


def schedule_text(schedule: Schedule) -> str:
    lines = []
    for kernel in schedule.kernels:
        lines.append(f"{kernel.name}: {kernel.strategy}, {kernel.reason}")
        lines += [f"  {'store ' if n in kernel.stored else ''}{n!r}" for n in kernel.nodes]
    for buffer in schedule.buffers:
        lines.append(f"{buffer.storage} {buffer.name} {list(buffer.shape)} at {buffer.offset}")
    return "\n".join([*lines, f"arena {schedule.arena_bytes} bytes", ""])


@pytest.mark.parametrize("name", NETS)
def test_every_stage(name: str, golden: Golden) -> None:
    graph = NETS[name]()
    golden(f"{name}/1_graph", graph_text(graph))
    small = run_passes(graph)
    golden(f"{name}/2_passes", graph_text(small))
    schedule = make_schedule(small, BLOCKS["avx2"])
    golden(f"{name}/3_schedule", schedule_text(schedule))
    emitted = emit(schedule, lower(schedule, BLOCKS["avx2"]), BLOCKS["avx2"])
    text = "".join(f"==== {f.name}\n{f.text}\n" for f in emitted.files if f.name != "graphc.h")
    golden(f"{name}/4_source", text)
