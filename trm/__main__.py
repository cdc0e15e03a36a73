"""`python -m trm`: the same as the command `trm`."""

from trm.cli.main import main

main()
