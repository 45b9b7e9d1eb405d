import graphc as gx

queries = gx.input("queries", (4, 16, 8))
scores = gx.einsum("bij,bkj->bik", queries)
