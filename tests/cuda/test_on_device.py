"""What only a GPU can show: the same texts, compiled for it, run on it."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.gpu import graphc_step
from benchmarks.gpu.parts import SMALL
from benchmarks.gpu.report import GRADIENTS
from graphc.backends.cuda.device import open_device
from graphc.errors import ToolchainError
from graphc.train.step import TrainingStep
from tests.cuda.programs import wrong_kernels

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """A GPU that runs what is compiled, or a skip that says what is missing."""
    try:
        open_device("cuda")
    except ToolchainError as error:
        pytest.skip(str(error).splitlines()[0])
    yield


@pytest.fixture(params=["fp32", "tf32", "bf16", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def step(precision: str) -> TrainingStep:
    return graphc_step.compiled(SMALL, "cuda", precision)


def test_every_kernel_on_fresh_inputs(step: TrainingStep, precision: str) -> None:
    assert wrong_kernels(graphc_step.device_program(step), precision) == {}


def test_gradients_of_a_small_vgg(precision: str) -> None:
    errors = graphc_step.gradient_errors(SMALL, "cuda", precision)
    found = errors.get("same", errors["float64"])
    assert max(found.values()) <= GRADIENTS[precision], found


def test_two_runs_end_in_the_same_bytes(precision: str) -> None:
    assert graphc_step.repeatable(SMALL, "cuda", precision, 10)


def test_replays_learn(step: TrainingStep) -> None:
    losses = [float(step(**SMALL.feeds())[0]) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
