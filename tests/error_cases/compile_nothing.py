import graphc as gx

program = gx.compile([])
