"""The README's example runs, and its commands name what there is."""

import pathlib
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
  return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_example_adds_the_penalty():
  names = {}
  exec(_blocks("python")[0], names)
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    "fc1": jax.random.normal(keys[0], (6, 5)),
    "fc2": jax.random.normal(keys[1], (5, 3)),
  }
  images = jax.random.normal(keys[2], (4, 6))
  labels = jnp.array([0, 1, 2, 0])
  plain, hidden = names["loss_fn"](params, images, labels)
  (loss, aux), gradients = jax.jit(
    jax.value_and_grad(names["bean_loss_fn"], has_aux=True)
  )(params, images, labels)
  penalty = bean_jax.layer_penalty(hidden["fc2"], params["fc2"])
  assert penalty > 0
  np.testing.assert_allclose(loss, plain + 10 * penalty, rtol=1e-5)
  np.testing.assert_allclose(aux["fc2"], hidden["fc2"], rtol=1e-6)
  assert jax.tree.all(jax.tree.map(lambda g: jnp.any(g != 0), gradients))


def test_example_with_flax_adds_the_penalty():
  model = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
  names = {"model": model, "optax": optax}
  exec(_blocks("python")[1], names)
  images = jax.random.normal(jax.random.key(0), (4, 6))
  params = model.init(jax.random.key(1), images)["params"]
  labels = jnp.array([0, 1, 2, 0])
  plain, activations = names["loss_fn"](params, images, labels)
  loss, _ = names["bean_loss_fn"](params, images, labels)
  penalties = [
    bean_jax.layer_penalty(activations[layer], params[layer]["kernel"])
    for layer in ("layers_0", "layers_2")
  ]
  np.testing.assert_allclose(loss, plain + 10 * sum(penalties), rtol=1e-5)


def test_example_fits_the_first_screen():
  lines = [line for line in _blocks("python")[0].splitlines() if line.strip()]
  assert len(lines) <= 12


def test_modules_and_files_exist():
  for module in re.findall(r"python -m (experiments\.\w+)", README):
    assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
  for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
    assert (ROOT / target).exists(), target
