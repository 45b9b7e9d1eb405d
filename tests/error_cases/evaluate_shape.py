import numpy as np

import graphc as gx

x = gx.input("x", (32, 8))
labels = gx.input("labels", (32,), "int64")
weight = gx.parameter("weight", (10, 8))
logits = gx.dense(x, weight)
loss = gx.cross_entropy(logits, labels)
value = gx.evaluate([logits], {"x": np.zeros((8, 32)), weight: np.zeros((10, 8))})
