"""BEAN in Equinox: the three lines that it takes end in `# BEAN`.

    python -m examples.equinox_model

trains a small network on 100 handwritten digits without BEAN and with it. The
model knows nothing of BEAN: `capture` and `kernels` are to be copied.
"""

import equinox as eqx
import jax
from jax.extend import core
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


def capture(model, layers=lambda name: True):
  """Makes the model return (output, {layer: its input}) of a sample.

  Refused by name, unless left out by `layers`: a layer that is called twice, or
  within a vmap, a scan, a checkpoint or the like inside of the model.
  """

  def call_fn(*args, **kwargs):
    inputs, trace = {}, core.get_opaque_trace_state()

    def record(path, layer):
      name = name_of(path)
      if not is_linear(layer) or not layers(name):
        return layer

      def call_layer(x, *, key=None):
        if name in inputs or core.get_opaque_trace_state() != trace:
          raise ValueError(f"layer {name!r}: called twice, or in vmap or scan")
        inputs[name] = x
        return layer(x, key=key)

      return call_layer

    recording = jax.tree.map_with_path(record, model, is_leaf=is_linear)
    return recording(*args, **kwargs), inputs

  return call_fn


def kernels(model, inputs):
  """Returns {layer: kernel [N, M]}; the weights of Equinox are [M, N]."""
  leaves = jax.tree.leaves_with_path(model, is_leaf=is_linear)
  layers = {name_of(path): leaf for path, leaf in leaves}
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
  # As a Python number alpha would be static.
  for name, alpha in (("plain", jnp.float32(0)), ("BEAN", jnp.float32(1))):
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
