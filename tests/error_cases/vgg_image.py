import graphc as gx

result = gx.models.vgg16(image=28)
