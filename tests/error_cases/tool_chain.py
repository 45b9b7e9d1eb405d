import graphc as gx

x = gx.input("x", (4,))
program = gx.compile([x * x])
