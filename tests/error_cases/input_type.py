import graphc as gx

result = gx.input("images", (8, 3, 32, 32), "half")
