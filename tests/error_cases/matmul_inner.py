import graphc as gx

x = gx.input("x", (32, 8))
w1 = gx.parameter("w1", (8, 10))
w2 = gx.parameter("w2", (12, 4))
hidden = gx.relu(x @ w1)
logits = gx.matmul(hidden, w2)
