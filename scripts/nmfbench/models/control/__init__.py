"""Embeddings whose scores are known beforehand: the ends of every scale."""
