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

model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
sam = optax.contrib.sam(optax.adam(3e-3), ascent, opaque_mode=True)
# Each with its steps and batches, and what its update takes beside gradients.
OPTIMIZERS = {
  "lbfgs": (optax.lbfgs(), 30, 1, ["value", "grad", "value_fn"]),
  "sharpness_aware": (sam, 150, 1, ["grad_fn"]),
  "accumulated": (optax.MultiSteps(optax.sgd(0.2), 5), 300, 5, []),
}


def train(loss_fn, params, images, labels, tx, num_steps, num_batches, takes):
  @jax.jit
  def step(params, state, *batch):
    value, grad = jax.value_and_grad(loss_fn)(params, *batch)
    known = {"value": value, "grad": grad}
    known["value_fn"] = lambda params: loss_fn(params, *batch)
    known["grad_fn"] = lambda params, _: jax.grad(loss_fn)(params, *batch)
    options = {name: known[name] for name in takes}
    updates, state = tx.update(grad, state, params, **options)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for index in range(num_steps):
    part = slice(index % num_batches, None, num_batches)
    params, state = step(params, state, images[part], labels[part])
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=7.0)  # BEAN
  penalties_fn = bean_jax.penalties(loss_fn)
  for kind, options in OPTIMIZERS.items():
    for way, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
      params = train(function, initial, images[:100], labels[:100], *options)
      loss, each = penalties_fn(params, images[100:], labels[100:])
      print(f"{kind}, {way}: loss {loss:.3f}, penalty {sum(each.values()):.4f}")


if __name__ == "__main__":
  main()
