"""Sudoku 4x4, 6x6 and 9x9."""
