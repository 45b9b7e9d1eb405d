import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
first = images[:, 3]
