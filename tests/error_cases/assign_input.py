import graphc as gx

x = gx.input("x", (32, 8))
gx.assign(x, x * 0.9, when=x)
