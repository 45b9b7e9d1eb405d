import graphc as gx

x = gx.input("x", (32, 8))
y = gx.relu(x) if x > 0 else x
