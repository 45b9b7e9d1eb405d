import numpy as np

import graphc as gx

weight = gx.parameter("weight", (16, 3), init=np.zeros((3, 16)))
