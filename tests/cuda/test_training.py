"""The same seeds train the same network on a processor and on the emulator."""

import numpy as np
import pytest

from graphc.train.network import build_model, classifier, make_optimizer
from graphc.train.step import training_step

STEPS = 10
NARROW = {"image": 32, "width": 0.125, "head": 32, "classes": 10, "dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "batch_norm", "precision", "distance"),
    [
        ("vgg11", False, "fp32", 1e-4),
        ("vgg11", False, "bf16", 2e-2),
        pytest.param("vgg11", False, "fp16", 2e-2, marks=pytest.mark.slow),
        pytest.param("vgg16", True, "fp32", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_a_small_vgg_trains_alike(
    name: str, batch_norm: bool, precision: str, distance: float, seeded: np.random.Generator
) -> None:
    network = classifier(build_model(name, {**NARROW, "batch_norm": batch_norm}), 4)
    images = seeded.standard_normal(network.x.shape, np.float32)
    labels = seeded.integers(0, 10, 4)
    losses = {}
    # Sums in another order round to other numbers of 16 bits, or to the other side of a relu, and
    # what differs grows.
    rate = 0.002 if precision == "fp16" or batch_norm else 0.01
    steps = 5 if precision == "fp16" else STEPS
    for target in ("c", "cuda-emu"):
        optimizer = make_optimizer("sgd", rate, None, None)
        step = training_step(
            network.loss, optimizer, target=target, name=name, seed=3, precision=precision
        )
        losses[target] = [float(step(x=images, y=labels)[0]) for _ in range(steps)]
    assert losses["c"][-1] != pytest.approx(losses["c"][0], rel=0.1)
    np.testing.assert_allclose(losses["cuda-emu"], losses["c"], rtol=0, atol=distance)
