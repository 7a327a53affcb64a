"""BEAN with a pretrained head that stays frozen: one line, `# BEAN`.

    python -m examples.frozen_head

trains a network on handwritten digits, then adapts it to digits that lie on
their side, from 5 examples each, without BEAN and with it. First its head is
frozen: that says which neurons are wired together, and the layers below learn
to make these fire together for the new images. Then all but the head is frozen:
what fires is given, and a new head learns to wire it. All parameters are those
of the loss, and only the gradient of some is taken: so BEAN finds the layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax

tx = optax.adam(3e-3)


def init_layer(key, num_inputs, num_outputs):
  draw = jax.random.normal(key, (num_inputs, num_outputs))
  return {
    "kernel": draw * np.sqrt(2 / num_inputs),
    "bias": jnp.zeros(num_outputs),
  }


def init_params(key):
  keys = jax.random.split(key, 3)
  sizes = {"fc1": (64, 64), "fc2": (64, 32), "head": (32, 10)}
  return {
    name: init_layer(key, *size)
    for (name, size), key in zip(sizes.items(), keys, strict=True)
  }


def dense(layer, inputs):
  return inputs @ layer["kernel"] + layer["bias"]


def encode(body, images):
  return jax.nn.relu(
    dense(body["fc2"], jax.nn.relu(dense(body["fc1"], images)))
  )


def loss_fn(params, images, labels):
  logits = dense(params["head"], encode(params, images))
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnames="num_steps")
def train(trained, frozen, images, labels, alpha, num_steps):
  fn = bean_jax.regularize(loss_fn, alpha=alpha, layers="head/kernel")  # BEAN

  def step(carry, _):
    trained, opt_state = carry
    gradients = jax.grad(lambda t: fn({**t, **frozen}, images, labels))(trained)
    updates, opt_state = tx.update(gradients, opt_state)
    return (optax.apply_updates(trained, updates), opt_state), None

  carry, _ = jax.lax.scan(step, (trained, tx.init(trained)), length=num_steps)
  return carry[0]


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  sideways = images.reshape(-1, 8, 8).swapaxes(1, 2)[:, ::-1].reshape(-1, 64)
  initial = init_params(jax.random.key(0))
  body = train(initial, {}, images[:900], labels[:900], 0.0, num_steps=300)
  head, new_head = {"head": body.pop("head")}, {"head": initial["head"]}
  ways = {"frozen head": (body, head), "frozen body": (new_head, body)}
  for kind, (trained, frozen) in ways.items():
    for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
      few = sideways[900:950], labels[900:950]
      adapted = frozen | train(trained, frozen, *few, alpha, num_steps=200)
      hidden = encode(adapted, sideways[950:])
      logits = dense(adapted["head"], hidden)
      accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[950:])
      penalty = bean_jax.layer_penalty(hidden, adapted["head"]["kernel"])
      print(f"{kind}, {name}: test accuracy {accuracy:.1%}, ", end="")
      print(f"penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
