"""The rows of a fit: in memory, on disk, shuffled, in minibatches."""
