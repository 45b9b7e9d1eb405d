from dataclasses import dataclass

import graphc as gx


@dataclass(frozen=True)
class Halving(gx.Optimizer):
    def update(self, p, g, slots):
        return gx.sum(p) / 2


x = gx.input("x", (32, 8))
weight = gx.parameter("weight", (10, 8))
step = gx.training_step(gx.mean(gx.dense(x, weight)), Halving())
