import graphc as gx

result = gx.input("", (8, 3, 32, 32))
