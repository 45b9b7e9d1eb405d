"""The loop over tasks that threads share: every task once, whoever falls behind."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from graphc.backends.c.emit import headers
from graphc.backends.c.toolchain import find_toolchain

# Every task counts itself and notes its thread; those of thread `slow` take 20 microseconds more.
SOURCE = """
#include <time.h>
#include "graphc.h"

void shared(int threads, long tasks, int slow, int *count, int *thread, long *order);
void shared(int threads, long tasks, int slow, int *count, int *thread, long *order)
{
  long done = 0;
  gc_range ranges[threads];
  gc_share(ranges, threads, tasks);
  #pragma omp parallel num_threads(threads)
  for (long task = gc_take(ranges, threads); task >= 0; task = gc_take(ranges, threads)) {
    const int me = omp_get_thread_num();
    const struct timespec pause = {0, 20000};
    if (me == slow) nanosleep(&pause, NULL);
    __atomic_add_fetch(&count[task], 1, __ATOMIC_RELAXED);
    thread[task] = me;
    order[task] = __atomic_fetch_add(&done, 1, __ATOMIC_RELAXED);
  }
}
"""


class _Shared:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.function = library.shared

    def __call__(self, threads: int, tasks: int, slow: int = -1) -> tuple[np.ndarray, ...]:
        """How often each task ran, by which thread, and as which of all."""
        count, thread = np.zeros(tasks, np.int32), np.zeros(tasks, np.int32)
        order = np.zeros(tasks, np.int64)
        arrays = (ctypes.c_void_p(a.ctypes.data) for a in (count, thread, order))
        self.function(threads, ctypes.c_long(tasks), slow, *arrays)
        return count, thread, order


@pytest.fixture(scope="module", params=["threads", "no OpenMP"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Shared:
    folder: Path = tmp_path_factory.mktemp("shared")
    for header in headers(False, ()):
        (folder / header.name).write_text(header.text)
    (folder / "shared.c").write_text(SOURCE)
    found = find_toolchain()
    flags = [f for f in found.flags if request.param == "threads" or "openmp" not in f]
    flags = ["-std=gnu11" if f.startswith("-std=") else f for f in flags]  # nanosleep is no C11
    quiet = [] if request.param == "threads" else ["-Wno-unknown-pragmas"]
    library = folder / "shared.so"
    command = [*found.command, *flags, *quiet, "-shared", "-fPIC", "shared.c", "-o", str(library)]
    subprocess.run([*command, "-lm"], cwd=folder, check=True, timeout=60)
    return _Shared(ctypes.CDLL(str(library)))


@pytest.mark.parametrize("threads", [1, 2, 4, 7])
@pytest.mark.parametrize("tasks", [0, 1, 3, 4, 1000])
def test_every_task_once(shared: _Shared, threads: int, tasks: int) -> None:
    for slow in (-1, 0, threads - 1):
        count, thread, _ = shared(threads, tasks, slow)
        assert (count == 1).all()
        assert ((thread >= 0) & (thread < threads)).all()


def test_many_short_tasks_once(shared: _Shared) -> None:
    for _ in range(5):
        count, _, _ = shared(4, 100_000)
        assert (count == 1).all()


def test_a_thread_keeps_the_front_of_its_range(shared: _Shared) -> None:
    """Its own tasks in ascending order, so that it can keep what neighbours share."""
    _, thread, order = shared(2, 1000)
    for me, half in ((0, slice(0, 500)), (1, slice(500, 1000))):
        own = order[half][thread[half] == me]
        assert (np.diff(own) > 0).all()


@pytest.mark.parametrize("shared", ["threads"], indirect=True)
def test_others_take_the_tasks_of_a_slow_thread(shared: _Shared) -> None:
    if not find_toolchain().openmp:
        pytest.skip("this compiler has no OpenMP")
    _, thread, _ = shared(2, 1000, slow=0)
    assert (thread[:500] == 1).sum() > 100  # from the back of the other's range
