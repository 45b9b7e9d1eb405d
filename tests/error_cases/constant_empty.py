import graphc as gx

nothing = gx.constant([])
