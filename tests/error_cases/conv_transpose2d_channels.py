import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
filters = gx.parameter("filters", (16, 3, 2, 2))
larger = gx.conv_transpose2d(images, filters, stride=2)
