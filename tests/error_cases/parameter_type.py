import graphc as gx

result = gx.parameter("weight", (16, 3), dtype="int64")
