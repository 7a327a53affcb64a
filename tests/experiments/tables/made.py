"""Records of known numbers, as `results.read` returns them."""

from experiments.learning import methods

_METRICS = {
  "test": "test_accuracy",
  "last": "test_accuracy_last",
  "validation": "validation_accuracy",
  "choice": "validation_accuracy_last",
}


def record(
  method="vanilla",
  strength=None,
  *,
  dataset="digits",
  shots=1,
  seeds=None,
  epochs=4,
  **accuracies,
):
  """A record of few shots, or without shots of a whole dataset.

  Accuracies by the names in `_METRICS`, and epochs, are numbers for all seeds,
  or one for each; None is a simulation that failed.
  """
  given = {"test": 0.5, "last": 0.25, "validation": 0.5, "choice": 0.5}
  given |= accuracies
  lengths = [len(v) for v in given.values() if not isinstance(v, float)]
  count = max(lengths) if lengths else 3
  epochs = [epochs] * count if isinstance(epochs, int) else list(epochs)
  given = {
    name: [value] * count if isinstance(value, float) else list(value)
    for name, value in given.items()
  }
  failed = [value is None for value in given["test"]]

  def curve(*values):
    """Also a member that failed has one; none goes on after its epochs."""
    return [[*values[:end], *[None] * (4 - end)] for end in epochs]

  hparam = methods.METHODS[method].hparam
  return {
    "config": {
      "dataset": dataset,
      **({"shots": shots} if shots else {}),
      "method": method,
      **({hparam: strength} if hparam else {}),
    },
    "seeds": list(range(count)) if seeds is None else list(seeds),
    "metrics": {
      **{
        _METRICS[name]: [
          None if lost else value
          for value, lost in zip(values, failed, strict=True)
        ]
        for name, values in given.items()
      },
      "failed_step": [7 if lost else -1 for lost in failed],
      "validation_accuracy_curve": curve(0.1, 0.2, 0.3, 0.4),
      "train_loss_curve": curve(4.0, 3.0, 2.0, 1.0),
      "epochs": epochs,
      "converged": [int(number < 4) for number in epochs],
    },
  }


def grid(method, choices, **fields):
  """A record for each value of a method's grid, by its `choice`."""
  values = methods.METHODS[method].grid
  return [
    record(method, strength, choice=choice, **fields)
    for strength, choice in zip(values, choices, strict=True)
  ]
