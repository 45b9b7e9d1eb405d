import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
halved = gx.max_pool2d(images, 0)
