import graphc as gx

left = gx.input("left", (8, 3, 32, 32))
right = gx.input("right", (8, 5, 32, 30))
both = gx.concat([left, right], axis=1)
