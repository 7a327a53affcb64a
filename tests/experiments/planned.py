"""Runs as scripts plan them, and choices that are none of the usual."""

import pathlib

from experiments.architectures import networks
from experiments.learning import methods
from experiments.population import cells

# No field has its usual value, so that one which is added is thought of.
UNUSUAL = methods.Options(
  gamma=2.5,
  distance="absolute",
  alpha_units="paper",
  layers=("fc2",),
  decoupled_decay=True,
  dropout_at_eval=True,
  first_pseudo=8,
  last_pseudo=20_000,
  pseudo_periods=2,
  pseudo_epochs=30,
  competing_epochs=60,
  readout_epochs=90,
)
assert all(a != b for a, b in zip(UNUSUAL, methods.Options(), strict=True))


def make_config(folder="folder", chosen=(), **changes):
  """A run of cells; changes are of fields of `Config` or of `Protocol`."""
  protocol = cells.Protocol(networks.Spec(), seeds=(3, 5))
  of_protocol = {k: changes.pop(k) for k in protocol._fields if k in changes}
  fields = {
    "experiment": "test",
    "dataset": "digits",
    "data_dir": None,
    "output_dir": pathlib.Path(folder),
    "resume": True,
    "protocol": protocol._replace(**of_protocol),
    "cells": tuple(chosen),
  }
  return cells.Config(**{**fields, **changes})
