import graphc as gx

x = gx.input("x", (32, 8))
step = gx.training_step(gx.mean(x * x), gx.SGD(0.1))
