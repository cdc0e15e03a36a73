"""Mazes: shortest paths in square grids."""
