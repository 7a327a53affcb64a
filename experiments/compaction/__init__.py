"""What `experiments.efficiency` does: trained networks made smaller.

`heads` takes the dense layers out of a checkpoint, `schemes` makes smaller ones
of them, `retraining` trains and evaluates those, `timing` times them,
`measures` does all of this; `needed` says how many parameters a given accuracy
needs, `tables` and `drawing` show it.
"""
