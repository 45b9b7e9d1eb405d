"""The same bits whatever the threads, processes and hash seeds; forks, threads, memory in use."""

import multiprocessing
import os
import threading

import numpy as np
import pytest

import graphc as gx
from graphc.compiler import compile_graph
from graphc.train.step import training_step
from tests.compiled import run_python

TRAINING = """
import hashlib, numpy as np, graphc as gx
from graphc.train.step import training_step
x, y = gx.input("x", (8, 3, 24, 24)), gx.input("y", (8,), "int64")
w, b = gx.parameter("w", (16, 3, 3, 3)), gx.parameter("b", (16,), 0.0)
g, s = gx.parameter("g", (16,), 1.0), gx.parameter("s", (16,), 0.0)
m, q = gx.state("m", (16,), 0.0), gx.state("q", (16,), 1.0)
u, v = gx.parameter("u", (24, 16, 3, 3)), gx.parameter("v", (10, 24 * 36))
z = gx.relu(gx.batch_norm(gx.conv2d(x, w, b, padding=1), g, s, m, q, training=True))
z = gx.max_pool2d(z, 2)
z = gx.mean_pool2d(gx.tanh(gx.conv2d(z, u, padding=1)), 2)
z = gx.dropout(gx.flatten(z), 0.2, training=True)
loss = gx.cross_entropy(gx.dense(z, v), y)
step = training_step(loss, gx.Adam(0.01), threads=THREADS)
data = np.random.default_rng(3)
digest = hashlib.sha256()
losses = []
for _ in range(20):
    images = data.normal(size=(8, 3, 24, 24)).astype("float32")
    (value,) = step(x=images, y=data.integers(0, 10, 8))
    losses.append(float(value))
for array in (*step.parameters.values(), *step.states.values()):
    digest.update(array.tobytes())
assert losses[-1] == losses[-1] and len(set(losses)) == 20
source = "".join(kernel.source for kernel in step.kernels.values())
print(losses, digest.hexdigest(), hashlib.sha256(source.encode()).hexdigest())
"""


def test_same_bits_for_every_number_of_threads_and_hash_seed() -> None:
    found = {
        run_python(TRAINING.replace("THREADS", str(threads)), PYTHONHASHSEED=str(threads * 7))
        for threads in (1, 2, 3, 4)
    }
    assert len(found) == 1


def test_long_reductions_do_not_depend_on_threads(seeded: np.random.Generator) -> None:
    x, w = gx.input("x", (70_001,)), gx.input("w", (64, 32, 40, 40))
    outputs = [gx.sum(x), gx.mean(gx.square(x)), gx.sum(w, (0, 2, 3)), gx.max(w), gx.sum(w)]
    feeds = {n.label: seeded.normal(size=n.shape).astype("float32") for n in (x, w)}
    results = [compile_graph(outputs, threads=n)(**feeds) for n in (1, 2, 3, 5)]
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert first.tobytes() == second.tobytes()


def large_program() -> tuple[gx.Node, dict[str, np.ndarray]]:
    a, b = gx.input("a", (200, 300)), gx.input("b", (300, 150))
    generator = np.random.default_rng(5)
    feeds = {n.label: generator.normal(size=n.shape).astype("float32") for n in (a, b)}
    return gx.softmax(gx.tanh(gx.matmul(a, b)) * 3.0), feeds


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads, on purpose
def test_a_fork_after_use_computes_the_same() -> None:
    out, feeds = large_program()
    program = compile_graph([out], threads=2)
    (wanted,) = program(**feeds)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    program._lock.acquire()  # as if another Python thread were inside a call during the fork
    child = context.Process(target=lambda: sender.send_bytes(program(**feeds)[0].tobytes()))
    child.start()
    program._lock.release()
    answered = receiver.poll(20)
    if not answered:
        child.kill()
    assert answered, "the child hangs"
    assert receiver.recv_bytes() == wanted.tobytes()
    child.join(20)
    assert child.exitcode == 0
    assert program(**feeds)[0].tobytes() == wanted.tobytes()


def test_many_python_threads_share_one_program(seeded: np.random.Generator) -> None:
    x = gx.input("x", (33, 65))
    w = gx.parameter("w", (40, 65))
    program = compile_graph([gx.softmax(gx.dense(x, w))], threads=2)
    feeds = [seeded.normal(size=(33, 65)).astype("float32") for _ in range(8)]
    serial = [program(x=feed)[0].tobytes() for feed in feeds]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            if program(x=feeds[number])[0].tobytes() != serial[number]:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
def test_memory_stays_flat_over_many_steps(seeded: np.random.Generator) -> None:
    x, y = gx.input("x", (32, 64)), gx.input("y", (32,), "int64")
    w, b = gx.parameter("w", (10, 64)), gx.parameter("b", (10,), 0.0)
    step = training_step(
        gx.cross_entropy(gx.dense(x, w, b), y), gx.SGD(0.1, momentum=0.9), threads=1
    )
    feeds = {"x": seeded.normal(size=(32, 64)).astype("float32"), "y": np.arange(32) % 10}
    for _ in range(200):
        step(**feeds)
    before = resident_bytes()
    for _ in range(2000):
        step(**feeds)
    grown = resident_bytes() - before
    assert grown < 2 << 20, f"{grown} bytes more after 2,000 steps"
