"""Neuronal assemblies of trained networks: measures, controls and figures.

What `experiments.interpret` uses: `sources` finds checkpoints and reads a dense
layer from each, `clusters` and `ablation` are the analyses, `measures` does all
of them for a layer and its controls, `records` keeps the numbers, `summary`
makes tables of them, `drawing` picks what `figures` draws.
"""
