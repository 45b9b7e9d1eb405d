import numpy as np

import graphc as gx

x = gx.input("x", (32, 8))
weight = gx.parameter("weight", (10, 8), init=lambda shape, generator: np.zeros(8))
program = gx.compile([gx.dense(x, weight)])
