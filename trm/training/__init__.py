"""Training: loss, optimisers, schedule, checkpoints and the loop."""
