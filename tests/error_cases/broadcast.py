import graphc as gx

hidden = gx.input("hidden", (32, 10))
offset = gx.parameter("offset", (12,))
shifted = hidden + offset
