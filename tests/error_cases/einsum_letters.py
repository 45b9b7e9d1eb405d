import graphc as gx

queries = gx.input("queries", (4, 16, 8))
keys = gx.input("keys", (4, 16, 6))
scores = gx.einsum("bij,bkj->bik", queries, keys)
