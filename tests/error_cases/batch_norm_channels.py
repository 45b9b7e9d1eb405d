import graphc as gx

x = gx.input("x", (32, 8, 4, 4))
norm = gx.layers.BatchNorm2d("norm", 16)
normal = norm(x, training=True)
