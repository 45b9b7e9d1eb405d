import graphc as gx

half = gx.constant([0.5, 1.0], "int64")
