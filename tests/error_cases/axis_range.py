import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
means = gx.mean(images, axis=4)
