import graphc as gx


@gx.op
def op_no_definition(a, b):
    i, j = gx.axes("i j")
    return a[i, j] * b[i, j]


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_no_definition(x, y)
