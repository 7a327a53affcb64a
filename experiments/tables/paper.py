"""Numbers that the paper prints, to be shown beside ours.

Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_, as in
the first version of the paper: means of 20 simulations, given without any
spread. Hyper-parameters were chosen on validation images.
"""

TITLES = {
  "mnist": "MNIST",
  "fashion_mnist": "Fashion-MNIST",
  "cifar10": "CIFAR-10",
  "lenet5": "LeNet-5",
  "mlp300_100": "LeNet-300-100",
  "mlp500": "perceptron",
  "resnet18": "ResNet-18",
  "resnet18_16": "ResNet-18 with 16 filters",
}

# Table 1: test accuracy in percent, {dataset: {method: {shots: accuracy}}}.
TABLE1 = {
  "mnist": {
    "vanilla": {1: 38.63, 5: 70.21, 10: 78.97, 20: 86.68},
    "dropout": {1: 40.13, 5: 72.45, 10: 82.04, 20: 89.22},
    "weight_decay": {1: 39.51, 5: 71.76, 10: 82.87, 20: 90.15},
    "l1": {1: 40.96, 5: 74.35, 10: 81.17, 20: 90.68},
    "imitation": {1: 44.10, 5: 70.40, 10: 80.00, 20: 86.70},
    "bean1": {1: 54.79, 5: 83.42, 10: 87.51, 20: 92.79},
    "bean2": {1: 53.75, 5: 80.76, 10: 88.08, 20: 92.97},
  },
  "fashion_mnist": {
    "vanilla": {1: 39.32, 5: 59.02, 10: 64.50, 20: 70.23},
    "dropout": {1: 40.78, 5: 60.04, 10: 65.40, 20: 71.83},
    "weight_decay": {1: 41.31, 5: 61.98, 10: 67.25, 20: 71.88},
    "l1": {1: 41.26, 5: 62.18, 10: 67.30, 20: 70.85},
    "imitation": {1: 44.80, 5: 62.10, 10: 68.00, 20: 72.50},
    "bean1": {1: 50.57, 5: 66.95, 10: 69.21, 20: 74.25},
    "bean2": {1: 49.94, 5: 65.98, 10: 70.21, 20: 75.06},
  },
}


def title(place: str) -> str:
  """Returns "MNIST, LeNet-5" for "mnist, lenet5", or "MNIST" for "mnist"."""
  return ", ".join(TITLES.get(part, part) for part in place.split(", "))


def printed(dataset: str, method: str, shots: int, form: str = "{:.2f}") -> str:
  """Returns what Table 1 prints for a cell; "" where it has none."""
  accuracy = TABLE1.get(dataset, {}).get(method, {}).get(shots)
  return "" if accuracy is None else form.format(accuracy)
