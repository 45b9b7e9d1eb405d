import graphc as gx


@gx.op
def op_extents_differ(a, b):
    i, j = gx.axes("i j")
    return gx.define[i, j](a[i, j] * b[j, i])


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_extents_differ(x, y)
