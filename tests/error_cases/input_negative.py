import graphc as gx

result = gx.input("images", (-1, 3, 32, 32))
