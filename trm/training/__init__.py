"""Training: trainer, optimizers, losses, EMA, checkpoints, distributed processes."""
