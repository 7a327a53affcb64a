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

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax


class Net(nn.Module):
  """A perceptron."""

  @nn.compact
  def __call__(self, images):
    hidden = nn.relu(nn.Dense(64, name="fc1")(images))
    hidden = nn.relu(nn.Dense(32, name="fc2")(hidden))
    return nn.Dense(10, name="head")(hidden)


model = Net()
tx = optax.adam(3e-3)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean(), jnp.mean(logits.argmax(axis=1) == labels)


@functools.partial(jax.jit, static_argnames="num_steps")
def train(trained, frozen, images, labels, alpha, num_steps):
  fn = bean_jax.regularize(loss_fn, alpha=alpha, layers="head/kernel")  # BEAN

  def step(carry, _):
    trained, opt_state = carry
    grad_fn = jax.grad(lambda t: fn(t | frozen, images, labels), has_aux=True)
    gradients, _ = grad_fn(trained)
    updates, opt_state = tx.update(gradients, opt_state)
    return (optax.apply_updates(trained, updates), opt_state), None

  carry, _ = jax.lax.scan(step, (trained, tx.init(trained)), length=num_steps)
  return carry[0]


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  sideways = images.reshape(-1, 8, 8).swapaxes(1, 2)[:, ::-1].reshape(-1, 64)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  body = train(initial, {}, images[:900], labels[:900], 0.0, num_steps=300)
  head, new_head = {"head": body.pop("head")}, {"head": initial["head"]}
  ways = {"frozen head": (body, head), "frozen body": (new_head, body)}
  penalties_fn = bean_jax.penalties(loss_fn, layers="head/kernel")
  for kind, (trained, frozen) in ways.items():
    for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
      few = sideways[900:950], labels[900:950]
      adapted = frozen | train(trained, frozen, *few, alpha, num_steps=200)
      result, penalties = penalties_fn(adapted, sideways[950:], labels[950:])
      print(f"{kind}, {name}: test accuracy {result[1]:.1%}, ", end="")
      print(f"penalty {penalties['head/kernel']:.4f}")


if __name__ == "__main__":
  main()
