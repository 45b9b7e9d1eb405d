"""`python -m graphc`, for where the command is not on the PATH."""

from graphc.cli import main

main(prog_name="graphc")
