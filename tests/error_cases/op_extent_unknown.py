import graphc as gx


@gx.op
def op_extent_unknown(a, b):
    i, j, k = gx.axes("i j k")
    return gx.define[i, j, k](a[i, j] * b[i, j])


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_extent_unknown(x, y)
