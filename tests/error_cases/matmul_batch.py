import graphc as gx

queries = gx.input("queries", (4, 16, 8))
keys = gx.input("keys", (3, 8, 16))
scores = queries @ keys
