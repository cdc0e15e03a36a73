"""Data sets: where puzzles come from, how they are augmented, stored and batched."""
