"""BEAN under optimizers that evaluate the loss themselves, or add batches up.

    python -m examples.optimizers

trains a small network on 100 handwritten digits by L-BFGS, by sharpness-aware
minimization and by gradients that are accumulated over 5 batches, without BEAN
and with it. A loss that `bean_jax.regularize` made has the signature of the one
that it was made from, so that every optimizer of optax takes it; the penalty is
a mean over samples as the loss is, so that batches of equal size add up to it.
"""

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn import datasets

import bean_jax

model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
sam = optax.contrib.sam(optax.adam(3e-3), ascent, opaque_mode=True)
# Each with its number of steps, and what its update takes beside gradients.
OPTIMIZERS = {
  "lbfgs": (optax.lbfgs(), 30, ["value", "grad", "value_fn"]),
  "sharpness_aware": (sam, 150, ["grad_fn"]),
  "accumulated": (optax.MultiSteps(optax.sgd(0.2), 5), 300, []),
}


def train(loss_fn, params, batches, tx, num_steps, takes):
  @jax.jit
  def step(params, state, batch):
    def value_fn(params, _=None):
      return loss_fn(params, *batch)

    value, grad = jax.value_and_grad(value_fn)(params)
    known = {"value": value, "grad": grad, "value_fn": value_fn}
    known["grad_fn"] = jax.grad(value_fn)
    options = {name: known[name] for name in takes}
    updates, state = tx.update(grad, state, params, **options)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for index in range(num_steps):
    params, state = step(params, state, batches[index % len(batches)])
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  whole, test = (images[:100], labels[:100]), (images[100:], labels[100:])
  parts = [(whole[0][i::5], whole[1][i::5]) for i in range(5)]
  initial = model.init(jax.random.key(0), images[:1])["params"]
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)  # BEAN
  for optimizer, options in OPTIMIZERS.items():
    batches = parts if optimizer == "accumulated" else [whole]
    for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
      params = train(function, initial, batches, *options)
      loss, penalties = bean_jax.penalties(loss_fn)(params, *test)
      penalty = sum(penalties.values())
      print(f"{optimizer}, {name}: test loss {loss:.3f}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
