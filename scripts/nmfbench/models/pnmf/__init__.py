"""Poisson factorisation with a Gaussian latent (PNMF)."""
