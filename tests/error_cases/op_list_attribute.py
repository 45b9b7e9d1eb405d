import graphc as gx


@gx.op
def op_list_attribute(a, *, factors):
    i, j = gx.axes("i j")
    return gx.define[i, j](a[i, j] * factors[0])


x = gx.input("x", (32, 8))
z = op_list_attribute(x, factors=[1, 2])
