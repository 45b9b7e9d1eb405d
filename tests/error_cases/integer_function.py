import graphc as gx

counts = gx.input("counts", (32,), "int64")
logs = gx.log(counts)
