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


class Attention(nn.Module):
  """A projection, which the example leaves out."""

  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(5, name="out")(tokens)


class Net(nn.Module):
  """Layers within one block, and a head."""

  @nn.compact
  def __call__(self, images):
    hidden = nn.relu(nn.Dense(5, name="fc1")(images))
    hidden = nn.tanh(Attention(name="attention")(hidden))
    return nn.Dense(3, name="head")(hidden)


class Wrapped(nn.Module):
  """So that paths begin with the name of a block."""

  @nn.compact
  def __call__(self, images):
    return Net(name="block")(images)


def _make_loss(model):
  def loss_fn(params, images, labels):
    logits = model.apply({"params": params}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  return loss_fn


def test_is_read_in_two_minutes():
  assert len(README.splitlines()) <= 120


def test_examples_add_the_penalty(capsys):
  model = Wrapped()
  images = jax.random.normal(jax.random.key(0), (4, 6))
  labels = jnp.array([0, 1, 2, 0])
  params = model.init(jax.random.key(1), images)["params"]
  names = {"bean_jax": bean_jax}
  names |= {"params": params, "images": images, "labels": labels}
  short, shown = _blocks("python")
  names["loss_fn"] = _make_loss(model)
  exec(short, names)
  exec(shown, names)
  assert "block/attention/out/kernel" in capsys.readouterr().out
  _, activations, kernels = bean_jax.capture(model.apply)(
    {"params": params}, images
  )
  plain = names["loss_fn"](params, images, labels)
  penalties = {
    path: bean_jax.layer_penalty(activations[path], kernel)
    for path, kernel in kernels.items()
  }
  assert set(penalties) == {
    "block/attention/out/kernel",
    "block/head/kernel",
  }
  loss, gradients = jax.jit(jax.value_and_grad(names["bean_loss_fn"]))(
    params, images, labels
  )
  expected = plain + 10 * sum(penalties.values())
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert jax.tree.all(jax.tree.map(lambda g: jnp.any(g != 0), gradients))


def test_example_fits_the_first_screen():
  lines = [line for line in _blocks("python")[0].splitlines() if line.strip()]
  assert len(lines) <= 12


def test_modules_and_files_exist():
  modules = re.findall(r"python -m (experiments\.\w+)", README)
  assert modules
  for module in modules:
    assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
  for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
    assert (ROOT / target).exists(), target
