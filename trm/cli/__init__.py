"""The command `trm`."""
