import graphc as gx


@gx.op
def op_axis_not_summed(a, b):
    i, j, k = gx.axes("i j k")
    return gx.define[i, j](a[i, k] * b[j, k])


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_axis_not_summed(x, y)
