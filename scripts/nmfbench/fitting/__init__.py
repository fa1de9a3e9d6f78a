"""What drives a fit: the loop, its checkpoints, what watches it."""
