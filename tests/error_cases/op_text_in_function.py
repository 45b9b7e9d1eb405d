import graphc as gx


@gx.op
def op_text_in_function(a):
    i, j = gx.axes("i j")
    return gx.define[i, j](gx.scalar.exp("a[i, j] +"))


x = gx.input("x", (32, 8))
z = op_text_in_function(x)
