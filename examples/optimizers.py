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


def lbfgs(loss_fn, params, batch):
  solver = optax.lbfgs()

  def value_fn(params):
    return loss_fn(params, *batch)

  @jax.jit
  def step(params, state):
    value, grad = optax.value_and_grad_from_state(value_fn)(params, state=state)
    updates, state = solver.update(
      grad, state, params, value=value, grad=grad, value_fn=value_fn
    )
    return optax.apply_updates(params, updates), state

  state = solver.init(params)
  for _ in range(30):
    params, state = step(params, state)
  return params


def sharpness_aware(loss_fn, params, batch):
  ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
  tx = optax.contrib.sam(optax.adam(3e-3), ascent, opaque_mode=True)

  @jax.jit
  def step(params, state):
    def grad_fn(params, _=None):
      return jax.grad(loss_fn)(params, *batch)

    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(150):
    params, state = step(params, state)
  return params


def accumulated(loss_fn, params, batch):
  tx = optax.MultiSteps(optax.sgd(0.2), every_k_schedule=5)

  @jax.jit
  def step(params, state, batch):
    gradients = jax.grad(loss_fn)(params, *batch)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for index in range(5 * 60):
    part = tuple(array[index % 5 :: 5] for array in batch)
    params, state = step(params, state, part)
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  batch, test = (images[:100], labels[:100]), (images[100:], labels[100:])
  initial = model.init(jax.random.key(0), images[:1])["params"]
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)  # BEAN
  for train in (lbfgs, sharpness_aware, accumulated):
    for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
      params = train(function, initial, batch)
      loss, penalties = bean_jax.penalties(loss_fn)(params, *test)
      penalty = sum(penalties.values())
      print(
        f"{train.__name__}, {name}: test loss {loss:.3f}, penalty {penalty:.4f}"
      )


if __name__ == "__main__":
  main()
