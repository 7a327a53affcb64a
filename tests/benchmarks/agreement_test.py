"""Tests of benchmarks.agreement and of the check of classes."""

import numpy as np
import pytest

from benchmarks import agreement, evaluation


def _tree(**changes):
  return {"bias": np.array([1.0, 0.0]), "kernel": np.ones((2, 2)), **changes}


def test_rounding_passes():
  # The small entry is off by far more than the fraction of itself.
  agreement.check("it", _tree(bias=np.array([1.0, 9e-5])), _tree())


@pytest.mark.parametrize(
  "got,message",
  [
    (_tree(bias=np.array([1.0, 2e-4])), r"it\['bias'\]: differs by 0.0002"),
    (_tree(bias=np.array([1.0, np.nan])), r"it\['bias'\]: differs by nan"),
    (_tree(kernel=np.ones((2, 1))), r"it\['kernel'\]: expected shape \[2, 2\]"),
    ({"bias": np.zeros(2)}, "it: expected PyTreeDef"),
  ],
)
def test_other_results_are_refused(got, message):
  with pytest.raises(agreement.DisagreementError, match=message):
    agreement.check("it", got, _tree())


def test_zeros_must_be_zeros():
  with pytest.raises(agreement.DisagreementError, match="allowed are 0"):
    agreement.check("it", np.full(2, 1e-30), np.zeros(2))


def test_classes_of_almost_equal_logits_pass_others_do_not():
  logits = np.array([[[1.0, 1.00001, 0.0], [3.0, 2.0, 1.0]]])
  evaluation.check_classes("it", np.array([[0, 0]]), logits)
  with pytest.raises(agreement.DisagreementError, match="it: 50.00% of the"):
    evaluation.check_classes("it", np.array([[0, 1]]), logits)
