"""The autoencoders: loadings tied between encoder and decoder, by minibatches or exactly."""
