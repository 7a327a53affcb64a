"""Which cases there are."""

from collections.abc import Callable
import functools

from benchmarks import (
  cases,
  epochs,
  evaluation,
  gpu,
  growth,
  learning_rules,
  penalties,
  processes,
  programs,
  routes,
  settings,
  startup,
  steps,
)

SUITES: dict[str, dict[str, Callable[[settings.Settings], cases.Case]]] = {
  "cpu": {
    "step_batch1": functools.partial(steps.run, 1),
    "step_batch100": functools.partial(steps.run, 100),
    "evaluation": evaluation.run,
    "penalty": penalties.run,
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
    "members_batch1": functools.partial(gpu.members, 1),
    "members_batch100": functools.partial(gpu.members, 100),
    "routes_batch1": functools.partial(routes.run, 1),
    "routes_batch100": functools.partial(routes.run, 100),
    "epoch_lenet5": functools.partial(epochs.lenet5, 50_000),
    "epoch_resnet18": epochs.resnet18,
    "evaluation": evaluation.run,
    "penalty_4096": gpu.penalty(4096),
    "penalty_8192": gpu.penalty(8192),
    "penalty_16384": gpu.penalty(16384),
    "penalty_memory": penalties.memory,
  },
}
