import graphc as gx

x = gx.input("x", (32, 8))
rows = [gx.sum(row) for row in x]
