"""Tests of the documentation."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent.parent
# Folders whose README says how their code works.
CODE = ("bean_jax", "benchmarks", "experiments", "tests/faults")
