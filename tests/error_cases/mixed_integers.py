import graphc as gx

counts = gx.input("counts", (32, 8), "int64")
weights = gx.input("weights", (8, 10), "int32")
totals = counts @ weights
