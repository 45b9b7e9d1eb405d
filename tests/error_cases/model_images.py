import graphc as gx

model = gx.models.vgg11(image=32)
x = gx.input("x", (8, 1, 32, 32))
logits = model(x)
