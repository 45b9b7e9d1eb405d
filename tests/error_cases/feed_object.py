import numpy as np

import graphc as gx

x = gx.input("x", (32, 8))
labels = gx.input("labels", (32,), "int64")
weight = gx.parameter("weight", (10, 8))
logits = gx.dense(x, weight)
loss = gx.cross_entropy(logits, labels)
program = gx.compile([loss])
images = np.zeros((32, 8), np.float32)
digits = np.arange(32) % 10
program(x=[["a"]], labels=digits)
