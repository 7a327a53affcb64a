"""Layers of Flax's models written out, from their parameters as dicts.

Of a part of a model, a function of its parameters and inputs returns its
outputs, and by the rest of their paths the inputs and kernels of its layers.
"""

import jax
import jax.numpy as jnp

DIM = 4
NUM_STEPS = 3
INPUTS = jax.random.normal(jax.random.key(1), (6, DIM))
TOKENS = jax.random.normal(jax.random.key(2), (2, 5, DIM))


def dense(layer, inputs):
  return inputs @ layer["kernel"] + jnp.broadcast_to(
    layer["bias"], (*inputs.shape[:-1], layer["bias"].shape[-1])
  )


def at(layers, step, axis=0):
  return jax.tree.map(lambda leaf: jnp.take(leaf, step, axis), layers)


def once(layer, inputs):
  inputs = jnp.tanh(inputs)
  return dense(layer, inputs), {"": (inputs, layer["kernel"])}


def one_after_another(layers, inputs, axis=0):
  found = {}
  for step in range(NUM_STEPS):
    inputs, layer = once(at(layers, step, axis), inputs)
    found[f"[{step}]"] = layer[""]
  return inputs, found


def again_and_again(layer, inputs, times=NUM_STEPS):
  rows = []
  for _ in range(times):
    inputs, found = once(layer, inputs)
    rows.append(found[""][0])
  return inputs, {"": (jnp.concatenate(rows), layer["kernel"])}


def side_by_side(layers, inputs):
  """All see the same rows: to the neurons, they are one wide layer.

  The outputs of the second go on.
  """
  inputs = jnp.tanh(inputs)
  kernels = jnp.concatenate(list(layers["kernel"]), axis=1)
  return dense(at(layers, 1), inputs), {"": (inputs, kernels)}


def each_its_own_rows(layers, inputs, num=NUM_STEPS):
  rows = inputs.reshape(num, -1, DIM)
  steps = [once(at(layers, step), rows[step]) for step in range(num)]
  return jnp.concatenate([outputs for outputs, _ in steps]), {
    f"[{i}]": found[""] for i, (_, found) in enumerate(steps)
  }


def lifted(middle, params, inputs):
  """Three blocks, of which the second is lifted and the last is a layer."""
  first, block, last = (params[name] for name in ("first", "lifted", "last"))
  hidden, found = middle(block["fc"], dense(first["fc"], jnp.tanh(inputs)))
  return {
    **{f"lifted/fc/kernel{key}": layer for key, layer in found.items()},
    "last/kernel": (hidden, last["kernel"]),
  }


def attention(mix, params, inputs, others=None):
  """Queries of inputs, keys and values of others, with two heads."""
  sources = {"query": inputs}
  sources |= dict.fromkeys(
    ("key", "value"), inputs if others is None else others
  )
  heads = {
    name: jnp.einsum("bsd,dhk->bshk", x, params[name]["kernel"])
    for name, x in sources.items()
  }
  mixed = mix(*heads.values())
  layers = {
    f"{name}/kernel": (x, params[name]["kernel"].reshape(DIM, -1))
    for name, x in sources.items()
  }
  kernel = params["out"]["kernel"].reshape(-1, DIM)
  rows = mixed.reshape(*mixed.shape[:2], -1)
  return {**layers, "out/kernel": (rows, kernel)}


def simple_cell(names, params, inputs):
  """A recurrent cell, whose layers of inputs and states have these names."""
  of_inputs, of_states = (params["cell"][name] for name in names)
  hidden = jnp.zeros((len(inputs), 3))
  before = []
  for step in range(inputs.shape[1]):
    before.append(hidden)
    outputs = dense(of_inputs, inputs[:, step])
    hidden = jnp.tanh(outputs + hidden @ of_states["kernel"])
  return {
    f"cell/{names[0]}/kernel": (inputs, of_inputs["kernel"]),
    f"cell/{names[1]}/kernel": (
      jnp.concatenate(before),
      of_states["kernel"],
    ),
  }
