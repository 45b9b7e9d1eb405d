import graphc as gx


@gx.op
def op_operand_itself(a, b):
    i, j = gx.axes("i j")
    return gx.define[i, j](a + b[i, j])


x = gx.input("x", (32, 8))
y = gx.input("y", (32, 8))
z = op_operand_itself(x, y)
