import graphc as gx

x = gx.input("x", (32, 8))
thinned = gx.dropout(x, 1.0, training=True)
