import graphc as gx

left = gx.input("left", (8, 3))
right = gx.input("right", (8, 3), "int64")
both = gx.concat([left, right])
