"""BEAN under optax.lbfgs, which evaluates the loss itself, in three lines.

    python -m examples.lbfgs

fits a small network to 100 handwritten digits without BEAN and with it. A loss
that `bean_jax.regularize` made has the signature of the one it was made from.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax  # BEAN

SIZES = {"fc1": (64, 64), "head": (64, 10)}
solver = optax.lbfgs()


def init_params(key):
  params = {}
  for index, (name, size) in enumerate(SIZES.items()):
    draw = jax.random.normal(jax.random.fold_in(key, index), size)
    params[name] = {
      "kernel": draw * np.sqrt(2 / size[0]),
      "bias": jnp.zeros(size[1]),
    }
  return params


def dense(layer, inputs):
  return inputs @ layer["kernel"] + layer["bias"]


def loss_fn(params, images, labels):
  hidden = jax.nn.relu(dense(params["fc1"], images))
  logits = dense(params["head"], hidden)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean(), hidden  # BEAN


def layers_fn(params, hidden):
  return hidden, params["head"]["kernel"]


def fit(loss_fn, params, images, labels):
  def value_fn(params):
    return loss_fn(params, images, labels)[0]

  value_and_grad = optax.value_and_grad_from_state(value_fn)

  @jax.jit
  def step(params, state):
    value, grad = value_and_grad(params, state=state)
    updates, state = solver.update(
      grad, state, params, value=value, grad=grad, value_fn=value_fn
    )
    return optax.apply_updates(params, updates), state

  state = solver.init(params)
  for _ in range(30):
    params, state = step(params, state)
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = init_params(jax.random.key(0))
  bean_loss_fn = bean_jax.regularize(loss_fn, layers_fn, alpha=1.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    params = fit(function, initial, images[:100], labels[:100])
    loss, hidden = loss_fn(params, images[100:], labels[100:])
    penalty = bean_jax.layer_penalty(*layers_fn(params, hidden))
    print(f"{name}: test loss {loss:.3f}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
