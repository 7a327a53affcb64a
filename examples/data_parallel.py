"""BEAN in data-parallel training on two devices, in three lines, `# BEAN`.

    python -m examples.data_parallel

trains a small network on 100 handwritten digits, half of them on each of two
CPU devices, and once more on one device. The penalty is a mean over samples, as
the loss is, so the mean over devices of what each finds is that of all.
"""

from flax import linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
from sklearn import datasets

from bean_jax import bean_penalty, linen  # BEAN

model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)
tx = optax.sgd(0.2)


def loss_fn(params, images, labels, alpha):
  logits, inputs = linen.capture(model)({"params": params}, images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_penalty(inputs, linen.kernels(params, inputs))  # BEAN
  return jax.lax.pmean(loss, "batch")


def train(params, images, labels, alpha, num_devices):
  mesh = jax.make_mesh(
    (num_devices,), ("batch",), devices=jax.devices()[:num_devices]
  )
  split, whole = PartitionSpec("batch"), PartitionSpec()
  sharded_loss_fn = jax.shard_map(
    loss_fn,
    mesh=mesh,
    in_specs=(whole, split, split, whole),
    out_specs=whole,
  )

  @jax.jit
  def train_step(params, opt_state, images, labels):
    loss, gradients = jax.value_and_grad(sharded_loss_fn)(
      params, images, labels, alpha
    )
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  state = jax.device_put((params, tx.init(params)), NamedSharding(mesh, whole))
  batch = jax.device_put((images, labels), NamedSharding(mesh, split))
  for _ in range(60):
    # Devices of one CPU share its threads: steps that pile up would starve.
    *state, loss = jax.block_until_ready(train_step(*state, *batch))
  return state[0], loss


def main():
  jax.config.update("jax_num_cpu_devices", 2)
  images, labels = datasets.load_digits(return_X_y=True)
  images, labels = np.float32(images[:100] / 16), labels[:100]
  initial = model.init(jax.random.key(0), images[:1])["params"]
  for name, alpha in (("plain", 0.0), ("BEAN", 10.0)):
    for num_devices in (1, 2):
      params, loss = train(initial, images, labels, alpha, num_devices)
      params = jax.device_get(params)
      _, inputs = linen.capture(model)({"params": params}, images)
      penalty = bean_penalty(inputs, linen.kernels(params, inputs))
      print(
        f"{name}, {num_devices} devices: training loss {loss:.5f}, "
        f"penalty {penalty:.5f}"
      )


if __name__ == "__main__":
  main()
