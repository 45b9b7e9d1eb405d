import graphc as gx


@gx.op
def op_python_if(a, b):
    i, j = gx.axes("i j")
    value = a[i, j] if a[i, j] > 0 else b[i, j]
    return gx.define[i, j](value)


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_python_if(x, y)
