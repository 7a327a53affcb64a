"""BEAN under gradient accumulation, in three lines, `# BEAN`.

    python -m examples.gradient_accumulation

The penalty is a mean over samples, as the loss is: gradients accumulated over
5 batches of 20 digits are those of one batch of 100, and so is what is learnt.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from bean_jax import bean_penalty, linen  # BEAN

NUM_STEPS = 60
model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)


def loss_fn(params, images, labels, alpha):
  logits, inputs = linen.capture(model)({"params": params}, images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_penalty(inputs, linen.kernels(params, inputs))  # BEAN
  return loss


def train(params, images, labels, alpha, num_batches):
  tx = optax.MultiSteps(optax.sgd(0.2), every_k_schedule=num_batches)

  @jax.jit
  def step(params, opt_state, images, labels):
    gradients = jax.grad(loss_fn)(params, images, labels, alpha)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for index in range(NUM_STEPS * num_batches):
    batch = slice(index % num_batches, None, num_batches)
    params, opt_state = step(params, opt_state, images[batch], labels[batch])
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images[:100] / 16)
  labels = labels[:100]
  initial = model.init(jax.random.key(0), images[:1])["params"]
  for name, alpha in (("plain", 0.0), ("BEAN", 10.0)):
    whole = train(initial, images, labels, alpha, num_batches=1)
    accumulated = train(initial, images, labels, alpha, num_batches=5)
    differences = jax.tree.map(
      lambda one, other: jnp.max(jnp.abs(one - other)), whole, accumulated
    )
    _, inputs = linen.capture(model)({"params": accumulated}, images)
    penalty = bean_penalty(inputs, linen.kernels(accumulated, inputs))
    difference = max(jax.tree.leaves(differences))
    print(
      f"{name}: penalty {penalty:.4f}, params differ from those of whole "
      f"batches by {difference:.0e} at most"
    )


if __name__ == "__main__":
  main()
