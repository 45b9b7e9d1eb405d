import graphc as gx

net = gx.layers.Sequential(
    [gx.layers.Dense("fc", 8, 16), gx.layers.ReLU("relu"), gx.layers.Dense("fc", 16, 10)]
)
