import graphc as gx

x = gx.input("x", (32, 8, 4, 4))
norm = gx.layers.BatchNorm2d("norm", 8)
once = norm(x, training=True)
twice = norm(once, training=True)
weight = gx.parameter("weight", (32, 8, 4, 4))
step = gx.training_step(gx.mean(twice * weight), gx.SGD(0.1))
