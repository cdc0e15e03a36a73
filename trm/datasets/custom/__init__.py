"""Puzzles of the user, read from one file."""
