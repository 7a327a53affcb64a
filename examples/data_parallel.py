"""BEAN in data-parallel training on two devices: one line, `# BEAN`.

    python -m examples.data_parallel

trains a small network on 100 handwritten digits, half of them on each of two
CPU devices, and once more on one device. The compiler divides the work by how
the arrays lie.
"""

from flax import linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax
from sklearn import datasets

import bean_jax

model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)
tx = optax.sgd(0.2)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(loss_fn, params, images, labels, num_devices):
  mesh = Mesh(jax.devices()[:num_devices], "batch")
  split = NamedSharding(mesh, PartitionSpec("batch"))
  whole = NamedSharding(mesh, PartitionSpec())

  @jax.jit
  def train_step(params, opt_state, images, labels):
    loss, gradients = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  state = jax.device_put((params, tx.init(params)), whole)
  batch = jax.device_put((images, labels), split)
  for _ in range(60):
    # Devices of one CPU share its threads: steps that pile up would starve.
    *state, loss = jax.block_until_ready(train_step(*state, *batch))
  return jax.device_get(state[0]), loss


def main():
  jax.config.update("jax_num_cpu_devices", 2)
  images, labels = datasets.load_digits(return_X_y=True)
  images, labels = np.float32(images[:100] / 16), labels[:100]
  initial = model.init(jax.random.key(0), images[:1])["params"]
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=10.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    for num_devices in (1, 2):
      params, loss = train(function, initial, images, labels, num_devices)
      _, penalties = bean_jax.penalties(loss_fn)(params, images, labels)
      print(
        f"{name}, {num_devices} devices: training loss {loss:.5f}, "
        f"penalty {sum(penalties.values()):.5f}"
      )


if __name__ == "__main__":
  main()
