"""An op of your own in five lines: a dilated convolution with softplus, derived, compiled, trained.

python examples/own_op.py
"""

import numpy as np

import graphc as gx


@gx.op
def soft_dilated(x, w):
    """out[n, k, i] = sum over c, r of softplus(x[n, c, i + 2r] * w[k, c, r])."""
    n, k, i, c, r = gx.axes("n k i c r")
    return gx.define[n, k, i](
        gx.sum_over[c, r](gx.scalar.softplus(x[n, c, i + 2 * r] * w[k, c, r]))
    )


def main() -> None:
    """Derive, print, compile and train it on a made-up task."""
    rng = np.random.default_rng(0)
    x = gx.input("x", (16, 2, 32))
    target = gx.input("target", (16, 4, 28))
    w = gx.parameter("w", (4, 2, 3), init=gx.init.normal(0.1))
    y = soft_dilated(x, w)
    loss = gx.squared_error(y, target)

    (dw,) = gx.gradients(loss, wrt=[w])
    print("the op:          ", gx.formula(y))
    print("its gradient:    ", gx.formula(dw))

    step = gx.training_step(loss, optimizer=gx.SGD(lr=0.05, momentum=0.9), name="own_op")
    images = rng.standard_normal(x.shape, np.float32)
    true_w = rng.standard_normal(w.shape).astype(np.float32)
    (wanted,) = gx.evaluate([y], {x: images, w: true_w})
    for number in range(60):
        (value,) = step(x=images, target=wanted.astype(np.float32))
        if number % 10 == 0:
            print(f"step {number:2d}  loss {value:.5f}")
    print("the C it became is in", step.program.folder)


if __name__ == "__main__":
    main()
