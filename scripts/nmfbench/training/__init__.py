"""Training of the models: where rows come from, how batches are drawn, the one loop, its checkpoint."""
