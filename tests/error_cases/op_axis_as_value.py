import graphc as gx


@gx.op
def op_axis_as_value(a):
    i, j = gx.axes("i j")
    return gx.define[i, j](i + a[i, j])


x = gx.input("x", (32, 8))
z = op_axis_as_value(x)
