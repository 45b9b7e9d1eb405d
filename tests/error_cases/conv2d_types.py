import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
filters = gx.parameter("filters", (16, 3, 3, 3), dtype="float64")
features = gx.conv2d(images, filters)
