"""Gaussian process priors over the coordinates of the cells, for :class:`nmfbench.models.PNMF`."""
