import graphc as gx

result = gx.input("images", (0, 3, 32, 32))
