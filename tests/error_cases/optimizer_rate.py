import graphc as gx

result = gx.SGD(lr=0)
