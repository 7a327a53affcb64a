"""Neuronal assemblies of trained networks: measures, controls and figures.

What `experiments.interpret` uses: `sources` finds checkpoints and reads a dense
layer from each, `clusters` and `ablation` are the analyses, `measures` does all
of them for a layer and its controls, `summary` makes tables of the numbers,
`drawing` draws them, and `portraits` single layers.
"""
