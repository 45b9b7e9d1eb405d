import graphc as gx


@gx.op
def op_outside(a, b):
    i, j = gx.axes("i j")
    r = gx.axis("r", 40)
    return gx.define[i, j](gx.sum_over[r](a[i + r, j] * b[i, j]))


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_outside(x, y)
