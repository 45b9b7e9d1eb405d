import graphc as gx


@gx.op
def op_data_as_index(a, b):
    i, j = gx.axes("i j")
    return gx.define[i, j](a[i, b[i, j]])


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_data_as_index(x, y)
