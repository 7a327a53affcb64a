"""The README's example runs, and is short."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _forward(params, images):
  """Layers within a block: fc1, a projection that is left out, and a head."""
  block = params["block"]
  hidden = jax.nn.relu(images @ block["fc1"]["kernel"])
  hidden = jnp.tanh(hidden @ block["attention"]["out"]["kernel"])
  return hidden @ block["head"]["kernel"]


def _loss_fn(params, images, labels):
  logits = _forward(params, images)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean()


def test_is_read_in_two_minutes():
  assert len(README.splitlines()) <= 120


def test_examples_add_the_penalty(capsys):
  shapes = {"fc1": (6, 5), "attention/out": (5, 5), "head": (5, 3)}
  keys = jax.random.split(jax.random.key(1), 4)
  kernels = {
    name: jax.random.normal(key, shape) / 2
    for (name, shape), key in zip(shapes.items(), keys, strict=False)
  }
  block = {
    "fc1": {"kernel": kernels["fc1"]},
    "attention": {"out": {"kernel": kernels["attention/out"]}},
    "head": {"kernel": kernels["head"]},
  }
  params = {"block": block}
  images = jax.random.normal(keys[3], (4, 6))
  labels = jnp.array([0, 1, 2, 0])
  names = {"bean_jax": bean_jax, "loss_fn": _loss_fn}
  names |= {"params": params, "images": images, "labels": labels}
  short, shown = _blocks("python")
  exec(short, names)
  exec(shown, names)
  assert "block/attention/out/kernel" in capsys.readouterr().out
  fc1 = jax.nn.relu(images @ kernels["fc1"])
  expected = _loss_fn(params, images, labels) + 10 * (
    bean_jax.layer_penalty(fc1, kernels["attention/out"])
    + bean_jax.layer_penalty(
      jnp.tanh(fc1 @ kernels["attention/out"]), kernels["head"]
    )
  )
  loss, gradients = jax.jit(jax.value_and_grad(names["bean_loss_fn"]))(
    params, images, labels
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert jax.tree.all(jax.tree.map(lambda g: jnp.any(g != 0), gradients))


def test_example_fits_the_first_screen():
  lines = [line for line in _blocks("python")[0].splitlines() if line.strip()]
  assert len(lines) <= 12
