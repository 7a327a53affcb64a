"""Flags that cannot be used are a line, and no folder."""

import pytest

from experiments import (
  few_shot,
  full_data,
  learning_rules,
  predictive_angles,
  study,
  table1,
)
from tests.experiments import in_process

COUNT = "expected a number from 1"
NONNEGATIVE = "--methods=nonnegative"


@pytest.mark.parametrize(
  "script,flag,message",
  (
    (few_shot, "--dataset=cifar10", "value should be one of <digits|mnist|"),
    (full_data, "--epochs=0", COUNT),
    (full_data, "--tolerance=1", "got 1.0"),
    (full_data, "--dataset=cifar10", "choose --model=resnet18"),
    (full_data, "--bfloat16", "resnet18 computes in it, got --model=lenet5"),
    (full_data, f"--model=resnet18 {NONNEGATIVE}", "nonnegative needs pixels"),
    (full_data, f"--model=resnet18_16 {NONNEGATIVE}", "nonnegative needs pix"),
    (table1, "--shots=3", "the paper has 1, 5, 10, 20, got 3; give --epochs"),
    (table1, "--datasets=cifar10", "expected different ones of digits, mnist"),
    (table1, "--methods=l2", "expected different ones of vanilla"),
    (table1, "--selection_seeds=5-9", "none of --seeds, got 5 in both"),
    (table1, "--validate_every=3", "expected a divisor of 200 epochs, got 3"),
    (table1, "--members_per_chunk=-1", "expected a number from 0"),
    (table1, "--epochs=0", COUNT),
    (table1, "--validate_every=0", COUNT),
    (table1, "--protocols=best", "expected different ones of paper"),
    (table1, "--selection_shots=1 --protocols=paper", "the protocol strict"),
    (study, "--variants=gamma", "expected different ones of usual"),
    (study, "--shots=3", "the paper has 1, 5, 10, 20, got 3"),
    (study, "--epochs=0", COUNT),
    (study, "--validations=7", "expected a divisor of 200 epochs"),
    (study, "--validations=0", COUNT),
    (learning_rules, "--methods=hebb", "expected different ones of vanilla"),
    (learning_rules, "--epsilons=0.1,1.5", "numbers from 0 to 1, got 1.5"),
    (learning_rules, "--epsilons=nan", "expected a number from 0"),
    (learning_rules, "--evaluated_protocols=best", "different ones of paper"),
    (learning_rules, "--attacked=-1", "expected a number from 0"),
    (learning_rules, "--evaluated_shots=3", "expected some of --shots, got"),
    (learning_rules, "--selection_shots=1", "expected some of --shots, got"),
    (learning_rules, "--selection_seeds=2-9", "none of --seeds, got 2 in both"),
    (learning_rules, "--epochs=4,4,4", "expected one number or 1"),
    (learning_rules, "--validate_every=3", "expected a divisor of all"),
    (learning_rules, "--checkpoint_dir=/nowhere", "/nowhere is no folder"),
    (predictive_angles, "--step_sizes=0", "above 0, at most 2, got 0"),
    (predictive_angles, "--step_sizes=nan", "expected a number from 0"),
    (predictive_angles, "--step_sizes=2.1", "above 0, at most 2, got 2.1"),
    (predictive_angles, "--sweeps=0", COUNT),
    (predictive_angles, "--sweeps=1,1", "expected different numbers"),
    (predictive_angles, "--shots=0", COUNT),
  ),
)
def test_refused(script, flag, message, tmp_path):
  directory = tmp_path / "new"
  line = in_process.refused(script, *flag.split(), f"--output_dir={directory}")
  assert flag.partition("=")[0] in line.split(": ")[1]
  assert message in line
  assert not directory.exists()
