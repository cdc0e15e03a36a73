"""The server behind `trm serve`: models that answer puzzles over HTTP."""
