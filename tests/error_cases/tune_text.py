import graphc as gx

x = gx.input("x", (32, 8))
weight = gx.parameter("weight", (10, 8))
loss = gx.mean(gx.square(gx.dense(x, weight)))
step = gx.training_step(loss, gx.SGD(lr=0.1), tune="60s")
