"""VGG16's training step through graphc: its time, each kernel's, its memory, its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.cuda.run import DeviceProgram
from graphc.train.network import Network, build_model, classifier, make_optimizer
from graphc.train.step import TrainingStep, training_step

REPLAYS = 30
ROUNDS = 2
PROFILES = 5


@dataclass(frozen=True)
class Shape:
    """What is trained: images of a side, how many at once, channels and dense layers by factors."""

    image: int
    batch: int
    width: float
    head: int
    classes: int

    def network(self, dtype: str = "float32") -> Network:
        """VGG16 without dropout, with the mean cross-entropy."""
        options = {
            "image": self.image, "width": self.width, "head": self.head, "classes": self.classes,
            "dropout": 0.0, "dtype": dtype,
        }  # fmt: skip
        return classifier(build_model("vgg16", options), self.batch)

    def feeds(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """Random images and labels, the same at every call."""
        generator = np.random.default_rng(1)
        images = generator.standard_normal((self.batch, 3, self.image, self.image), np.float32)
        labels = generator.integers(0, self.classes, self.batch)
        return {"x": images.astype(dtype), "y": labels}


def compiled(shape: Shape, target: str, precision: str, dtype: str = "float32") -> TrainingStep:
    """A step with weights that only its shape decides."""
    network = shape.network(dtype)
    optimizer = make_optimizer("sgd", 0.01, None, None)
    return training_step(
        network.loss, optimizer, target=target, precision=precision, seed=7, name="vgg16_gpu"
    )


def device_program(step: TrainingStep) -> DeviceProgram:
    """The program of a step on a device."""
    assert isinstance(step.program, DeviceProgram)
    return step.program


def timed(shape: Shape, target: str, precision: str) -> dict[str, Any]:
    """Seconds of a step, the median of replays taken twice, and bytes of device memory.

    All memory is allocated before the first step, so that what is planned is the peak. Elsewhere
    than on a GPU one replay shows that it works.
    """
    program = device_program(compiled(shape, target, precision))
    program(**shape.feeds())
    driver = program.driver
    replays, count = (REPLAYS, ROUNDS) if target == "cuda" else (1, 1)
    rounds = [[driver.seconds(program.replay) for _ in range(replays)] for _ in range(count)]
    return {
        "seconds": [statistics.median(one) for one in rounds],
        "least": min(map(min, rounds)), "most": max(map(max, rounds)),
        "bytes": program.memory.total, "compile_seconds": program.compile_seconds,
    }  # fmt: skip


def profiled(shape: Shape, target: str, precision: str) -> list[dict[str, Any]]:
    """Each kernel's seconds, the median of some runs launch by launch, with what it does."""
    program = device_program(compiled(shape, target, precision))
    feeds = shape.feeds()
    program(**feeds)
    profiles = [program.profile(**feeds) for _ in range(PROFILES if target == "cuda" else 1)]
    return [
        {
            "name": name, "seconds": statistics.median(p[name] for p in profiles),
            "flops": kernel.flops, "bytes": kernel.bytes, "how": kernel.strategy,
        }
        for name, kernel in program.kernels.items()
    ]  # fmt: skip


def gradient_errors(shape: Shape, target: str, precision: str) -> dict[str, dict[str, float]]:
    """After one step: how far each parameter moved otherwise than it should, in relative norm.

    A parameter's move is its gradient, so that every kernel of the step has a part in some of them.
    In 16 bits, "same" compares with the processor's step, which rounds in the same places; far from
    float64 are both, the more the narrower the network.
    """
    ours = compiled(shape, target, precision)
    start = {name: np.asarray(array, np.float64) for name, array in ours.parameters.items()}
    found = _moves(ours, start, shape.feeds())
    exact = compiled(shape, "c", "fp32", "float64")
    errors = {"float64": _distances(found, _moves(exact, start, shape.feeds("float64")))}
    if precision in ("bf16", "fp16"):
        same = compiled(shape, "c", precision)
        errors["same"] = _distances(found, _moves(same, start, shape.feeds()))
    return errors


def _moves(
    step: TrainingStep, start: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """How one step moves the parameters from their start."""
    for name, array in step.parameters.items():
        array[...] = start[name]
    step(**feeds)
    return {n: np.asarray(a).astype(np.float64) - start[n] for n, a in step.parameters.items()}


def _distances(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> dict[str, float]:
    return {
        name: float(np.linalg.norm(found[name] - want) / max(np.linalg.norm(want), 1e-30))
        for name, want in wanted.items()
    }


def repeatable(shape: Shape, target: str, precision: str, steps: int) -> bool:
    """Whether two runs end in the same bytes."""
    ends = []
    for _ in range(2):
        step = compiled(shape, target, precision)
        for _ in range(steps):
            step(**shape.feeds())
        ends.append([np.asarray(array).tobytes() for array in step.parameters.values()])
    return ends[0] == ends[1]
