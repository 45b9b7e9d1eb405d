import graphc as gx

hidden = gx.input("hidden", (32, 10))
count = (hidden > 0) + (hidden < 1)
