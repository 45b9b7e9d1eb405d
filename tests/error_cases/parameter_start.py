import graphc as gx

result = gx.parameter("weight", (16, 3), init=[0.0, 1.0])
