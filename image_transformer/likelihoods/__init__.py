"""Likelihoods: what a position's parameters say about its 8-bit values."""
