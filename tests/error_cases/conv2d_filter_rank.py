import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
filters = gx.parameter("filters", (16, 3, 3))
features = gx.conv2d(images, filters)
