import graphc as gx

x = gx.input("x", (32, 8))
hidden = gx.dense(x, gx.parameter("weight", (16, 8)))
logits = gx.dense(hidden, gx.parameter("weight", (10, 16)))
program = gx.compile([logits])
