"""Autoencoding NMF whose objective asks for what it has not seen, so that it cannot copy."""
