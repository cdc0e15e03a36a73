"""`python -m trm`: the same as the command `trm`."""

from trm.cli import main

main()
