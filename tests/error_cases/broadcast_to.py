import graphc as gx

offset = gx.parameter("offset", (12,))
rows = gx.broadcast_to(offset, (32, 10))
