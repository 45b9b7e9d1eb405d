import graphc as gx

hidden = gx.input("hidden", (32, 10))
scale = gx.parameter("scale", (10,), dtype="float64")
scaled = hidden * scale
