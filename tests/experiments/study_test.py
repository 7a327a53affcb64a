"""Tests of experiments.study: flags, and the whole job.

published_test has every variant, as its records name what it was.
"""

import functools

import pytest

from experiments import study
from experiments.architectures import networks
from experiments.population import simulations
from experiments.records import results
from tests.experiments import in_process, tiny
from tests.experiments.tables import made

SMALL = (
  *("--dataset=digits", "--seeds=100-101", "--epochs=4", "--validations=2"),
  "--variants=usual,batch_full",
)
run = functools.partial(in_process.done, study)


@pytest.mark.slow
def test_the_whole_job_and_again(tmp_path, monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *args, **kwargs: tiny.NETWORK)
  out = run(*SMALL, f"--output_dir={tmp_path}")
  for name in ("usual", "batch_full"):
    alphas = study.VARIANTS[name].alphas.values()
    assert len(results.load_all(tmp_path / name)) == 1 + sum(map(len, alphas))
  assert out.endswith((tmp_path / "table.md").read_text() + "\n")
  for name in ("gains", "alpha_bean1", "alpha_bean2"):
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  monkeypatch.setattr(simulations, "run", None)
  out = run(*SMALL, f"--output_dir={tmp_path}")
  assert "cells done already: " in out


def test_without_vanilla_nothing_is_compared():
  assert study.gains({"gamma_3": [made.record("bean1", 0.1)]}) == {}
