import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
swapped = gx.transpose(images, (0, 2, 2, 1))
