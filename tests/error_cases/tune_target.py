import graphc as gx

x = gx.input("x", (32, 8))
weight = gx.parameter("weight", (10, 8))
program = gx.compile([gx.dense(x, weight)], target="cuda", tune=60.0)
