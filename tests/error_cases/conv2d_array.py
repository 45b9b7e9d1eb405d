import numpy as np

import graphc as gx

images = gx.input("images", (8, 3, 32, 32))
features = gx.conv2d(images, np.ones((16, 3, 3, 3), np.float32))
