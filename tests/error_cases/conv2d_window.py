import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
filters = gx.parameter("filters", (16, 3, 5, 35))
features = gx.conv2d(images, filters, padding=1)
