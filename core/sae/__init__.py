"""Sparse autoencoders: the mathematics of each architecture, and what they share."""
