"""Weights of trained networks: their distribution, signs and pictures."""
