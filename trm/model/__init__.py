"""The network: layers, recursion, adaptive computation, published checkpoints."""
