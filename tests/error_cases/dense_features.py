import graphc as gx

x = gx.input("x", (32, 784))
weight = gx.parameter("weight", (784, 10))
logits = gx.dense(x, weight)
