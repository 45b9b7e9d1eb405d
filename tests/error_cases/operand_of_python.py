import graphc as gx

hidden = gx.input("hidden", (32, 10))
shifted = hidden + "1"
