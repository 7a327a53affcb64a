"""BEAN with a strength that rises, and its penalty by layer in a log.

    python -m examples.schedule_and_log

trains a small network on 100 handwritten digits. `bean_jax.penalties` returns
the penalty of each layer beside the loss, so that a step which logs them
computes nothing twice; the weighted sum is what `bean_jax.regularize` adds.
"""

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn import datasets

import bean_jax

NUM_STEPS = 200
model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)
tx = optax.adam(3e-3)
alpha_fn = optax.schedules.linear_schedule(0.0, 10.0, NUM_STEPS)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def bean_loss_fn(params, images, labels, step):
  loss, penalties = bean_jax.penalties(loss_fn)(params, images, labels)  # BEAN
  total = loss + alpha_fn(step) * sum(penalties.values())
  return total, {"loss": loss, **penalties}


@jax.jit
def train_step(params, opt_state, images, labels, step):
  gradients, log = jax.grad(bean_loss_fn, has_aux=True)(
    params, images, labels, step
  )
  updates, opt_state = tx.update(gradients, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, log


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images, labels = np.float32(images[:100] / 16), labels[:100]
  params = model.init(jax.random.key(0), images[:1])["params"]
  opt_state = tx.init(params)
  for step in range(NUM_STEPS + 1):
    params, opt_state, log = train_step(params, opt_state, images, labels, step)
    if step % 50 == 0:
      text = ", ".join(f"{name} {value:.4f}" for name, value in log.items())
      print(f"step {step}: {text}")


if __name__ == "__main__":
  main()
