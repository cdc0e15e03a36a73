"""The network: layers, recursion, adaptive computation time, variants, published checkpoints."""
