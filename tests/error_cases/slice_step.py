import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
mirrored = images[..., ::-1]
