"""BEAN in Equinox: the three lines that it takes end in `# BEAN`.

    python -m examples.equinox_model

trains a small network on 100 handwritten digits without BEAN and with it. The
model knows nothing of BEAN: `capture` and `kernels` are to be copied.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax  # BEAN

tx = optax.adam(3e-3)


def is_linear(node):
  return isinstance(node, eqx.nn.Linear)


def name_of(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")


def capture(model):
  """Makes the model return (output, {layer: its input}) of a sample.

  A layer must be called once, and not within a scan, a checkpoint or the like.
  """

  def call_fn(*args, **kwargs):
    inputs = {}

    def record(path, layer):
      if not is_linear(layer):
        return layer

      def call_layer(x, *, key=None):
        if name_of(path) in inputs:
          raise ValueError(f"layer {name_of(path)!r} is called twice")
        inputs[name_of(path)] = x
        return layer(x, key=key)

      return call_layer

    recording = jax.tree.map_with_path(record, model, is_leaf=is_linear)
    return recording(*args, **kwargs), inputs

  return call_fn


def kernels(model, inputs):
  """Returns {layer: kernel [N, M]}; the weights of Equinox are [M, N]."""
  leaves = jax.tree.leaves_with_path(model, is_leaf=is_linear)
  layers = {name_of(path): leaf for path, leaf in leaves if is_linear(leaf)}
  return {name: layers[name].weight.T for name in inputs}


def loss_fn(model, images, labels, alpha):
  logits, inputs = jax.vmap(capture(model))(images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_jax.bean_penalty(inputs, kernels(model, inputs))  # BEAN
  return loss


@eqx.filter_jit
def train_step(model, opt_state, images, labels, alpha):
  gradients = eqx.filter_grad(loss_fn)(model, images, labels, alpha)
  updates, opt_state = tx.update(gradients, opt_state)
  return eqx.apply_updates(model, updates), opt_state


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
    alpha = jnp.float32(alpha)  # As a Python number it would be static.
    model = eqx.nn.MLP(64, 10, 48, depth=2, key=jax.random.key(0))
    opt_state = tx.init(eqx.filter(model, eqx.is_array))
    for _ in range(200):
      model, opt_state = train_step(
        model, opt_state, images[:100], labels[:100], alpha
      )
    logits, inputs = jax.vmap(capture(model))(images[100:])
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[100:])
    penalty = bean_jax.bean_penalty(inputs, kernels(model, inputs))
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
