"""Embeddings that were made elsewhere."""
