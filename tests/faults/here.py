"""Small runs of scripts in this process."""

from experiments import (
  efficiency,
  few_shot,
  full_data,
  interpret,
  learning_rules,
  predictive_angles,
  study,
  table1,
)
from tests.experiments import in_process

SCRIPTS = {"few_shot": few_shot, "table1": table1, "full_data": full_data}
# Those that share their machinery too, to be refused with their flags.
ALL = SCRIPTS | {
  "study": study,
  "interpret": interpret,
  "efficiency": efficiency,
  "learning_rules": learning_rules,
  "predictive_angles": predictive_angles,
}

# Two cells each, of two seeds.
SMALL = {
  "few_shot": (
    *("--model=mlp500", "--methods=vanilla,bean1", "--alphas=1", "--shots=1"),
    *("--seeds=2", "--epochs=2"),
  ),
  "table1": (
    *("--datasets=digits", "--methods=vanilla", "--shots=1", "--seeds=2"),
    *("--selection_seeds=100-101", "--epochs=2", "--validate_every=1"),
  ),
  "full_data": (
    *("--methods=vanilla,bean1", "--alphas=1", "--seeds=2", "--epochs=2"),
    *("--batch_size=20", "--checkpoint_seconds=0"),
  ),
  "study": (
    *("--dataset=digits", "--seeds=100-101", "--epochs=4", "--validations=2"),
    "--variants=usual",
  ),
  "interpret": (),
  "efficiency": (),
  "learning_rules": (),
  "predictive_angles": (),
}


def run(name, folder, *args):
  """Makes a small run; its exit status, standard output and error."""
  output = f"--output_dir={folder}"
  return in_process.run(ALL[name], *SMALL[name], *args, output)


def done(name, folder, *args):
  """Makes a small run that has nothing to complain of; what it prints."""
  output = f"--output_dir={folder}"
  return in_process.done(ALL[name], *SMALL[name], *args, output)


def refused(name, folder, *args):
  """Makes a small run that is refused; the line that says why."""
  output = f"--output_dir={folder}"
  return in_process.refused(ALL[name], *SMALL[name], *args, output)
