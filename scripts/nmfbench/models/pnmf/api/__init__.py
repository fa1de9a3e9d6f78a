"""PNMF as functions and PyTorch objects."""
