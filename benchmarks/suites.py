"""Which cases there are."""

from collections.abc import Callable
import functools

from benchmarks import (
  cases,
  epochs,
  evaluation,
  growth,
  learning_rules,
  penalties,
  processes,
  programs,
  startup,
  steps,
)

SUITES: dict[str, dict[str, Callable[[cases.Settings], cases.Case]]] = {
  "cpu": {
    "step_batch1": functools.partial(steps.run, 1),
    "step_batch100": functools.partial(steps.run, 100),
    "evaluation": evaluation.run,
    "penalty": functools.partial(penalties.run, 4096),
    "penalty_memory": penalties.memory,
    "growth_members": growth.members,
    "growth_batches": growth.step_batches,
    "growth_penalty_widths": growth.widths,
    "growth_penalty_samples": growth.batches,
    # A fifth of MNIST's training images: the time is in proportion.
    "epoch_lenet5": functools.partial(epochs.lenet5, 10_000),
    "programs": programs.run,
    "layouts": programs.layouts,
    "predictive_coding": learning_rules.predictive_coding,
    "competition": learning_rules.competition,
    "processes": processes.run,
    "startup": startup.run,
  },
  "gpu": {
    "members_batch1": functools.partial(growth.members_beside_peers, 1),
    "members_batch100": functools.partial(growth.members_beside_peers, 100),
    "epoch_lenet5": functools.partial(epochs.lenet5, 50_000),
    "epoch_resnet18": epochs.resnet18,
    "evaluation": evaluation.run,
    "penalty_4096": functools.partial(penalties.run, 4096),
    "penalty_8192": functools.partial(penalties.run, 8192),
    "penalty_16384": functools.partial(penalties.run, 16384),
    "penalty_memory": penalties.memory,
  },
}
