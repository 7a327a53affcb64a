"""Networks of bare arrays: what is found is what is written beside it.

Every loss function here returns, as its auxiliary output, the inputs [..., N]
and the kernel [N, M] of each of its dense layers of neurons.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import sparse
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models.checks import assert_close, check

DIM = 4
NUM_SAMPLES = 5


def _draw(*shape, seed=0):
  """Returns numbers that no two shapes or seeds share."""
  rng = np.random.default_rng((seed, *shape))
  return jnp.asarray(0.7 * rng.normal(size=shape), jnp.float32)


def _loss(outputs):
  return jnp.mean(jnp.tanh(outputs.astype(jnp.float32) - 0.3) ** 2)


INPUTS = _draw(NUM_SAMPLES, DIM)
FC1, FC2, FC3 = _draw(DIM, 6), _draw(6, 3), _draw(3, 2)


def _rows(bias, inputs):
  return jnp.broadcast_to(bias, (len(inputs), len(bias)))


def stax(params, inputs):
  (fc1, bias1), (), (fc2, bias2) = params
  hidden = jax.nn.relu(inputs @ fc1 + _rows(bias1, inputs))
  outputs = hidden @ fc2 + _rows(bias2, inputs)
  return _loss(outputs), {"2/0": (hidden, fc2)}


class Layer(NamedTuple):
  kernel: jax.Array
  bias: jax.Array


def named_tuples(params, inputs):
  hidden = inputs
  layers = {}
  for name, layer in params.items():
    layers[f"{name}/kernel"] = (hidden, layer.kernel)
    hidden = jnp.tanh(hidden @ layer.kernel + _rows(layer.bias, inputs))
  return _loss(hidden), {path: layers[path] for path in list(layers)[1:]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Network:
  encoder: tuple
  head: jax.Array
  name: str = dataclasses.field(metadata={"static": True}, default="net")


def dataclass_of_tuples(params, inputs):
  hidden = jnp.tanh(inputs @ params.encoder[0])
  hidden_2 = jnp.tanh(hidden @ params.encoder[1]["deep"][0])
  return _loss(hidden_2 @ params.head), {
    "encoder/1/deep/0": (hidden, params.encoder[1]["deep"][0]),
    "head": (hidden_2, params.head),
  }


def heads_by_einsum(params, inputs):
  """Heads [D, H, K] and a projection [H, K, D] of them, as attention has."""
  tokens = inputs[None] + jnp.tanh(inputs[None] * params["scale"])
  heads = jnp.tanh(jnp.einsum("bsd,dhk->bhsk", tokens, params["query"]))
  outputs = jnp.einsum("bhsk,hkd->bsd", heads, params["out"])
  rows = jnp.moveaxis(heads, 1, 2).reshape(1, NUM_SAMPLES, -1)
  return _loss(outputs), {
    "query": (tokens, params["query"].reshape(DIM, -1)),
    "out": (rows, params["out"].reshape(-1, DIM)),
  }


def transposed(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"].T)
  hidden_2 = jnp.tanh(params["fc2"] @ hidden.T)
  outputs = lax.dot_general(params["fc3"], hidden_2, (((1,), (0,)), ((), ())))
  return _loss(outputs), {
    "fc2": (hidden, params["fc2"].T),
    "fc3": (hidden_2.T, params["fc3"].T),
  }


def samples_by_vmap(params, inputs):
  def of_one(row):
    hidden = jnp.tanh(params["fc1"].T @ row)
    return hidden, params["fc2"].T @ hidden

  hidden, outputs = jax.vmap(of_one)(inputs)
  return _loss(outputs), {"fc2": (hidden, params["fc2"])}


def vector_of_weights(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"])
  return _loss(hidden @ params["readout"]), {
    "readout": (hidden, params["readout"][:, None])
  }


def tied_embedding(params, tokens):
  hidden = jnp.tanh(params["embedding"][tokens] @ params["fc"])
  logits = hidden @ params["embedding"].T
  return _loss(logits), {
    "fc": (params["embedding"][tokens], params["fc"]),
    "embedding": (hidden, params["embedding"].T),
  }


def tied_autoencoder(params, inputs):
  """The kernel takes part both ways: two layers, one of raw data."""
  hidden = jnp.tanh(inputs @ params["fc"])
  code = jnp.tanh(hidden @ params["code"])
  hidden_2 = jnp.tanh(code @ params["code"].T)
  return _loss(hidden_2 @ params["fc"].T), {
    "code": (hidden, params["code"]),
    "code.T": (code, params["code"].T),
    "fc.T": (hidden_2, params["fc"].T),
  }


def half_precision(params, inputs):
  half = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
  hidden = jnp.tanh(half(inputs) @ half(params["fc1"]))
  outputs = jnp.einsum(
    "bn,nm->bm",
    hidden,
    half(params["fc2"]),
    preferred_element_type=jnp.float32,
  )
  return _loss(outputs), {"fc2": (hidden, half(params["fc2"]))}


def mask_of_kernel(params, inputs):
  mask = np.arange(18).reshape(6, 3) % 4 != 0
  kernel = jnp.where(mask, params["fc2"], 0)
  hidden = jnp.tanh(inputs @ (params["fc1"] * np.tri(DIM, 6)))
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def mask_among_arguments(params, inputs, mask):
  hidden = jnp.tanh(inputs @ params["fc1"])
  kernel = params["fc2"] * mask
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def normalized_weights(params, inputs):
  def normalized(kernel):
    norms = jnp.sqrt(jnp.sum(kernel**2, axis=0, keepdims=True) + 1e-6)
    return params["scale"] * kernel / norms

  hidden = jnp.tanh(inputs @ normalized(params["fc1"]))
  kernel = normalized(params["fc2"])
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def low_rank_merged(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"])
  kernel = params["fc2"] + params["down"] @ params["up"]
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def low_rank_beside(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"])
  low = hidden @ params["down"]
  outputs = hidden @ params["fc2"] + low @ params["up"]
  return _loss(outputs), {
    "fc2": (hidden, params["fc2"]),
    "down": (hidden, params["down"]),
    "up": (low, params["up"]),
  }


def _two_layers(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"])
  return hidden, hidden @ params["fc2"]


def low_rank_alone(params, inputs, frozen):
  """Only the adapters are trained: the frozen network is data."""
  hidden, outputs = _two_layers(frozen, inputs)
  low = hidden @ params["down"]
  outputs = jnp.tanh(outputs + low @ params["up"])
  return _loss(outputs @ params["head"]), {
    "up": (low, params["up"]),
    "head": (outputs, params["head"]),
  }


def adapted_by_a_step(params, inputs):
  """MAML: the layers are those that the outer loss computes with."""

  def inner(params, inputs):
    return _loss(_two_layers(params, inputs)[1])

  gradient = jax.grad(inner)(params, inputs[::-1])
  adapted = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
  hidden, outputs = _two_layers(adapted, inputs)
  return _loss(outputs), {"fc2": (hidden, adapted["fc2"])}


def gradient_penalty(params, inputs):
  def energy(inputs):
    hidden = jnp.tanh(inputs @ params["fc1"])
    hidden_2 = jnp.tanh(hidden @ params["fc2"])
    outputs = hidden_2 @ params["fc3"]
    return jnp.sum(outputs), (hidden, hidden_2, outputs)

  slopes, (hidden, hidden_2, outputs) = jax.grad(energy, has_aux=True)(inputs)
  return _loss(outputs) + jnp.mean(slopes**2), {
    "fc2": (hidden, params["fc2"]),
    "fc3": (hidden_2, params["fc3"]),
  }


def score_matching(params, inputs):
  """Only the gradient of an energy counts, and not the energy."""

  def energy(inputs):
    hidden = jnp.tanh(inputs @ params["fc1"])
    hidden_2 = jnp.tanh(hidden @ params["fc2"])
    return jnp.sum(hidden_2 @ params["fc3"]), (hidden, hidden_2)

  slopes, (hidden, hidden_2) = jax.grad(energy, has_aux=True)(inputs)
  return jnp.mean((slopes + inputs) ** 2), {
    "fc2": (hidden, params["fc2"]),
    "fc3": (hidden_2, params["fc3"]),
  }


def gated_experts(params, inputs):
  """Experts [E, N, M] that all see the same neurons, and a gate."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  gate = jax.nn.softmax(hidden @ params["gate"])
  outputs = jnp.einsum("bn,enm->ebm", hidden, params["experts"])
  outputs = jnp.einsum("ebm,be->bm", jnp.tanh(outputs), gate)
  return _loss(outputs), {
    "gate": (hidden, params["gate"]),
    "experts": (hidden, jnp.concatenate(list(params["experts"]), axis=1)),
  }


def routed_experts(params, inputs):
  """Each expert [N, M] of a stack, by vmap, sees samples of its own."""
  hidden = jnp.tanh(inputs[:4] @ params["fc1"])
  routed = hidden.reshape(2, 2, 6)
  outputs = jax.vmap(jnp.matmul)(routed, params["experts"])
  return _loss(outputs), {
    "experts[0]": (routed[0], params["experts"][0]),
    "experts[1]": (routed[1], params["experts"][1]),
  }


def recurrent(params, inputs):
  """A cell whose kernels all steps share, and a fused kernel."""
  sequence = jnp.stack([inputs, inputs**2, -inputs])

  def step(hidden, rows):
    gates = rows @ params["input"] + hidden @ params["recurrent"]
    update, candidate = jnp.split(gates, 2, axis=-1)
    new = jax.nn.sigmoid(update) * hidden + jnp.tanh(candidate)
    return new, hidden

  start = jnp.zeros((NUM_SAMPLES, 3))
  last, before = lax.scan(step, start, sequence)
  return _loss(last @ params["head"]), {
    "recurrent": (before, params["recurrent"]),
    "head": (last, params["head"]),
  }


def stacked_blocks(params, inputs):
  """Blocks whose kernels a scan goes over, checkpointed."""
  hidden = inputs @ params["fc1"]

  @jax.checkpoint
  def block(hidden, kernels):
    inner = jnp.tanh(hidden @ kernels["up"])
    return hidden + inner @ kernels["down"], (hidden, inner)

  hidden, (before, inner) = lax.scan(block, hidden, params["blocks"])
  blocks = params["blocks"]
  return _loss(hidden), {
    **{f"blocks/up[{i}]": (before[i], blocks["up"][i]) for i in range(3)},
    **{f"blocks/down[{i}]": (inner[i], blocks["down"][i]) for i in range(3)},
  }


def layers_of_one_array(params, inputs):
  """Kernels are slices of an array, as fused projections are."""
  hidden = jnp.tanh(inputs @ params["first"])
  query, key = jnp.split(params["fused"], 2, axis=1)
  scores = jnp.tanh(hidden @ query) + jnp.tanh(hidden @ key)
  deep = jnp.tanh(scores @ params["deep"][0])
  return _loss(deep @ params["deep"][1]), {
    "fused[:, 0:3]": (hidden, query),
    "fused[:, 3:6]": (hidden, key),
    "deep[0]": (scores, params["deep"][0]),
    "deep[1]": (deep, params["deep"][1]),
  }


def flat_vector(params, inputs):
  """All parameters in one vector, as evolution strategies keep them."""
  fc1, fc2 = params[:24].reshape(DIM, 6), params[24:42].reshape(6, 3)
  hidden = jnp.tanh(inputs @ fc1)
  return _loss(hidden @ fc2), {"params[24:42]": (hidden, fc2)}


def called_twice(params, inputs):
  """A head on two batches of other sizes: one layer, both batches."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  other = jnp.tanh(hidden[:2] * params["scale"])
  loss = _loss(hidden @ params["fc2"]) + _loss(other @ params["fc2"])
  return loss, {"fc2": (jnp.concatenate([hidden, other]), params["fc2"])}


def twice_in_a_row(params, inputs):
  """Two products with nothing between them are no value and its tangent."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  other = jnp.tanh(hidden)
  outputs = jnp.stack([hidden @ params["fc2"], other @ params["fc2"]])
  rows = jnp.concatenate([hidden, other])
  return _loss(outputs), {"fc2": (rows, params["fc2"])}


def draws_and_integers(params, inputs):
  """Dropout, a step, quantized weights and a key among the parameters."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  key = jax.random.fold_in(jax.random.wrap_key_data(params["key"]), 3)
  keep = jax.random.bernoulli(key, 0.7, hidden.shape)
  hidden = jnp.where(keep, hidden, 0) / params["step"]
  outputs = jnp.tanh(hidden @ params["fc2"])
  kernel = params["bits"] * params["scale"]
  return _loss(outputs @ kernel), {
    "fc2": (hidden, params["fc2"]),
    "scale": (outputs, kernel),
  }


def _norm_of_batch(hidden):
  mean = jnp.mean(hidden, axis=0, keepdims=True)
  return (hidden - mean) / jnp.sqrt(
    jnp.var(hidden, axis=0, keepdims=True) + 1e-3
  )


def custom_derivatives_beside(params, inputs):
  """Derivatives of one's own, and jit, beside the layers."""

  @jax.custom_jvp
  def clipped(hidden):
    return jnp.clip(hidden, -1, 1)

  clipped.defjvp(lambda p, t: (clipped(*p), *t))

  @jax.custom_vjp
  def doubled(hidden):
    return 2 * hidden

  doubled.defvjp(lambda h: (2 * h, None), lambda _, g: (2 * g,))
  hidden = doubled(clipped(_norm_of_batch(inputs @ params["fc1"])))
  hidden, kernel = jax.device_put((hidden, params["fc2"]))
  outputs = jax.jit(jnp.matmul)(hidden, kernel)
  return _loss(outputs), {"fc2": (hidden, params["fc2"])}


def recomputed_with_a_policy(params, inputs):
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

  @functools.partial(jax.checkpoint, policy=policy)
  def block(params, inputs):
    hidden = jnp.tanh(inputs @ params["fc1"])
    return hidden, hidden @ params["fc2"]

  hidden, outputs = block(params, inputs)
  return _loss(outputs), {"fc2": (hidden, params["fc2"])}


def fixed_projection(params, inputs):
  """A closed-over random matrix is no layer, and what it makes is data."""
  hidden = jnp.tanh(inputs @ _draw(DIM, DIM, seed=3))
  hidden = jnp.tanh(hidden @ params["fc1"])
  return _loss(hidden @ params["fc2"]), {"fc2": (hidden, params["fc2"])}


def frozen_between(params, inputs):
  """A frozen layer between two that learn is data, too."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  hidden = jnp.tanh(hidden @ _draw(6, 6, seed=3))
  return _loss(hidden @ params["fc2"]), {"fc2": (hidden, params["fc2"])}


def stopped_gradient(params, inputs):
  hidden = lax.stop_gradient(jnp.tanh(inputs @ params["fc1"]))
  kernel = lax.stop_gradient(params["fc2"])
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def attention(params, inputs):
  """Attention in a sequence, with learned positions and a class token."""
  tokens = jnp.stack([inputs, inputs[::-1]]) @ params["fc1"]
  first = jnp.broadcast_to(params["class"], (2, 1, 6))
  tokens = jnp.concatenate([first, tokens], axis=1)
  tokens += jnp.broadcast_to(params["positions"][None], tokens.shape)
  query, key, value = (tokens @ params[name] for name in "qkv")
  scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key))
  mixed = jnp.einsum("bqk,bkd->bqd", scores, value)
  return _loss(mixed @ params["out"]), {
    **{name: (tokens, params[name]) for name in "qkv"},
    "out": (mixed, params["out"]),
  }


def latent_queries(params, inputs):
  """Queries made of parameters alone (Perceiver) are a kernel for the keys."""
  keys = inputs @ params["key"]
  queries = params["latents"] @ params["query"]
  mixed = jax.nn.softmax(queries @ keys.T) @ keys
  return _loss(mixed @ params["out"]), {
    "query": (keys, queries.T),
    "out": (mixed, params["out"]),
  }


def generated_kernel(params, inputs, task):
  """A network that makes a kernel: its own layers have kernels, it has none."""
  code = jnp.tanh(task @ params["fc1"])
  kernel = (code @ params["fc2"]).reshape(DIM, 3)
  hidden = jnp.tanh(inputs @ kernel)
  return _loss(hidden @ params["fc3"]), {
    "fc2": (code[None], params["fc2"]),
    "fc3": (hidden, params["fc3"]),
  }


def coordinates(params):
  """Coordinates that the network makes itself are raw data."""
  grid = jnp.stack([jnp.linspace(0, 1, 7)] * DIM, axis=1)
  hidden = jnp.tanh(grid @ params["fc1"])
  return _loss(hidden @ params["fc2"]), {"fc2": (hidden, params["fc2"])}


def generator_and_critic(params, key, inputs):
  """Noise that is drawn inside is raw data, too."""
  key = jax.random.wrap_key_data(key)
  noise = jax.random.normal(key, (NUM_SAMPLES, DIM))
  hidden = jnp.tanh(noise @ params["fc1"])
  made = hidden @ params["fc2"]
  judged = [jnp.tanh(rows @ params["critic"]) for rows in (made, inputs)]
  loss = _loss(judged[0] @ params["fc3"]) - _loss(judged[1] @ params["fc3"])
  return loss, {
    "fc2": (hidden, params["fc2"]),
    "critic": (made, params["critic"]),
    "fc3": (jnp.concatenate(judged), params["fc3"]),
  }


def unrolled_from_zeros(params, inputs):
  """The zeros that recurrence starts from are no neurons."""
  hidden = jnp.zeros((NUM_SAMPLES, 3))
  before = []
  for rows in (inputs, -inputs, inputs**2):
    before.append(hidden)
    hidden = jnp.tanh(rows @ params["fc1"] + hidden @ params["recurrent"])
  return _loss(hidden @ params["fc3"]), {
    "recurrent": (jnp.concatenate(before[1:]), params["recurrent"]),
    "fc3": (hidden, params["fc3"]),
  }


def solved_for_the_kernel(params, inputs):
  """The Cayley transform makes an orthogonal kernel by linear algebra."""
  skew = params["fc3"] - params["fc3"].T
  kernel = jnp.linalg.solve(jnp.eye(3) + skew, jnp.eye(3) - skew)
  hidden = jnp.tanh(inputs @ params["fc1"])
  return _loss(hidden @ kernel), {"fc3": (hidden, kernel)}


def normalized_by_power_iteration(params, inputs, vector):
  """The products that estimate the norm of a kernel are no layers."""
  kernel = params["fc2"]
  for _ in range(2):
    left = kernel @ vector
    vector = kernel.T @ (left / jnp.linalg.norm(left))
    vector = vector / jnp.linalg.norm(vector)
  kernel = kernel / jnp.linalg.norm(kernel @ vector)
  hidden = jnp.tanh(inputs @ params["fc1"])
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def scattered(params, inputs, index):
  """Pruned neurons, and a row that is written anew, leave the kernel."""
  kernel = params["fc2"].at[index].set(0.0)
  hidden = jnp.tanh(inputs @ params["fc1"])
  return _loss(hidden @ kernel), {"fc2": (hidden, kernel)}


def transposed_by_jax(params, inputs):
  """A decoder that is the transpose of a linear function."""
  hidden = jnp.tanh(inputs @ params["fc1"])
  shape = jax.ShapeDtypeStruct((len(hidden), 3), hidden.dtype)
  decode = jax.linear_transpose(lambda rows: rows @ params["fc2"].T, shape)
  return _loss(decode(hidden)[0]), {"fc2": (hidden, params["fc2"])}


def index_of_a_loop(params, inputs):
  """Each step of a loop takes its kernel by its own number."""
  start = jnp.tanh(inputs @ params["fc1"])

  def step(hidden, index):
    return jnp.tanh(hidden @ params["deep"][index]), hidden

  hidden, before = lax.scan(step, start, jnp.arange(2))
  return _loss(hidden), {
    f"deep[{i}]": (before[i], params["deep"][i]) for i in range(2)
  }


_MLP = {"fc1": FC1, "fc2": FC2}
_SQUARE = {name: _draw(6, 6, seed=ord(name)) for name in "qkv"}
# A network, its parameters, what else it takes, and its layers of raw data.
CASES = {
  stax: ([(FC1, FC1[0]), (), (FC2, FC2[0])], (INPUTS,), ["0/0"]),
  named_tuples: (
    {f"fc{i}": Layer(k, k[0]) for i, k in enumerate((FC1, FC2, FC3))},
    (INPUTS,),
    ["fc0/kernel"],
  ),
  dataclass_of_tuples: (
    Network((FC1, {"deep": (FC2,)}), FC3),
    (INPUTS,),
    ["encoder/0"],
  ),
  heads_by_einsum: (
    {"query": _draw(DIM, 2, 3), "out": _draw(2, 3, DIM), "scale": FC1[0, 0]},
    (INPUTS,),
    [],
  ),
  transposed: ({"fc1": FC1.T, "fc2": FC2.T, "fc3": FC3.T}, (INPUTS,), ["fc1"]),
  samples_by_vmap: (_MLP, (INPUTS,), ["fc1"]),
  vector_of_weights: ({"fc1": FC1, "readout": FC2[:, 0]}, (INPUTS,), ["fc1"]),
  tied_embedding: (
    {"embedding": _draw(7, DIM), "fc": _draw(DIM, DIM)},
    (jnp.array([[0, 3], [6, 2]]),),
    [],
  ),
  tied_autoencoder: ({"fc": FC1, "code": FC2}, (INPUTS,), ["fc"]),
  half_precision: (_MLP, (INPUTS,), ["fc1"]),
  mask_of_kernel: (_MLP, (INPUTS,), ["fc1"]),
  mask_among_arguments: (
    _MLP,
    (INPUTS, (np.arange(18).reshape(6, 3) % 4 != 0).astype(np.float32)),
    ["fc1"],
  ),
  normalized_weights: ({**_MLP, "scale": jnp.float32(2)}, (INPUTS,), ["fc1"]),
  low_rank_merged: (
    {**_MLP, "down": _draw(6, 1), "up": _draw(1, 3)},
    (INPUTS,),
    ["fc1"],
  ),
  low_rank_beside: (
    {**_MLP, "down": _draw(6, 2), "up": _draw(2, 3)},
    (INPUTS,),
    ["fc1"],
  ),
  low_rank_alone: (
    {"down": _draw(6, 2), "up": _draw(2, 3), "head": FC3},
    (INPUTS, _MLP),
    ["down"],
  ),
  adapted_by_a_step: (_MLP, (INPUTS,), ["fc1"]),
  gradient_penalty: ({**_MLP, "fc3": FC3}, (INPUTS,), ["fc1"]),
  score_matching: ({**_MLP, "fc3": FC3}, (INPUTS,), ["fc1"]),
  gated_experts: (
    {"fc1": FC1, "gate": _draw(6, 2), "experts": _draw(2, 6, 3)},
    (INPUTS,),
    ["fc1"],
  ),
  routed_experts: (
    {"fc1": FC1, "experts": _draw(2, 6, 3)},
    (INPUTS,),
    ["fc1"],
  ),
  recurrent: (
    {"input": FC1, "recurrent": _draw(3, 6), "head": FC3},
    (INPUTS,),
    ["input"],
  ),
  stacked_blocks: (
    {"fc1": FC1, "blocks": {"up": _draw(3, 6, 5), "down": _draw(3, 5, 6)}},
    (INPUTS,),
    ["fc1"],
  ),
  layers_of_one_array: (
    {"first": FC1, "fused": _draw(6, 6), "deep": _draw(2, 3, 3)},
    (INPUTS,),
    ["first"],
  ),
  flat_vector: (_draw(50), (INPUTS,), ["params[0:24]"]),
  called_twice: ({**_MLP, "scale": jnp.float32(2)}, (INPUTS,), ["fc1"]),
  twice_in_a_row: (_MLP, (INPUTS,), ["fc1"]),
  custom_derivatives_beside: (_MLP, (INPUTS,), ["fc1"]),
  recomputed_with_a_policy: (_MLP, (INPUTS,), ["fc1"]),
  fixed_projection: (_MLP, (INPUTS,), ["fc1"]),
  frozen_between: (_MLP, (INPUTS,), ["fc1"]),
  stopped_gradient: (_MLP, (INPUTS,), ["fc1"]),
  attention: (
    {
      "fc1": FC1,
      "class": _draw(1, 1, 6),
      "positions": _draw(NUM_SAMPLES + 1, 6),
      **_SQUARE,
      "out": FC2,
    },
    (INPUTS,),
    ["fc1"],
  ),
  latent_queries: (
    {
      "key": FC1,
      "latents": _draw(2, 3),
      "query": _draw(3, 6),
      "out": FC2,
    },
    (INPUTS,),
    ["key"],
  ),
  generated_kernel: (
    {"fc1": _draw(2, 6), "fc2": _draw(6, 12), "fc3": FC3},
    (INPUTS, _draw(2)),
    ["fc1"],
  ),
  coordinates: (_MLP, (), ["fc1"]),
  generator_and_critic: (
    {**_MLP, "critic": _draw(3, 3), "fc3": FC3},
    (jax.random.key_data(jax.random.key(0)), _draw(NUM_SAMPLES, 3)),
    ["fc1"],
  ),
  unrolled_from_zeros: (
    {"fc1": _draw(DIM, 3), "recurrent": _draw(3, 3), "fc3": FC3},
    (INPUTS,),
    ["fc1"],
  ),
  solved_for_the_kernel: (
    {"fc1": _draw(DIM, 3), "fc3": _draw(3, 3)},
    (INPUTS,),
    ["fc1"],
  ),
  normalized_by_power_iteration: (_MLP, (INPUTS, _draw(3)), ["fc1"]),
  scattered: (_MLP, (INPUTS, jnp.array([1, 2])), ["fc1"]),
  transposed_by_jax: (_MLP, (INPUTS,), ["fc1"]),
  index_of_a_loop: (
    {"fc1": _draw(DIM, 6), "deep": _draw(2, 6, 6)},
    (INPUTS,),
    ["fc1"],
  ),
}


def _adapted_loss(params, task):
  """Returns the loss after a step on a task, and the operands of fc2."""
  gradient = jax.grad(lambda p: _loss(_two_layers(p, task)[1]))(params)
  adapted = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
  hidden, outputs = _two_layers(adapted, -task)
  return _loss(outputs), (hidden, adapted["fc2"])


def _modulated_loss(params, row):
  """Returns the loss of a kernel whose rows a sample scales."""
  hidden = jnp.tanh(row[None] @ params["fc1"])
  kernel = params["fc2"] * jax.nn.sigmoid(hidden.T)
  return _loss(hidden @ kernel), (hidden, kernel)


@pytest.mark.parametrize("loss_of_one", (_adapted_loss, _modulated_loss))
@pytest.mark.parametrize("loop", ("vmap", "map"))
def test_kernels_that_data_change(loss_of_one, loop):
  # The penalty is the mean over tasks, or samples, with a kernel each.
  data = jnp.stack([INPUTS, 2 * INPUTS])
  data = data if loss_of_one == _adapted_loss else INPUTS[:2]

  def loss_fn(params, data):
    of_one = functools.partial(loss_of_one, params)
    losses, operands = (
      jax.vmap(of_one)(data) if loop == "vmap" else lax.map(of_one, data)
    )
    return jnp.mean(losses), operands

  def by_hand(params, data):
    _, operands = loss_fn(params, data)
    return jnp.mean(jax.vmap(bean_jax.layer_penalty)(*operands))

  def ours(params, data):
    result, terms = bean_jax.penalties(loss_fn)(params, data)
    assert list(terms) == ["fc2"]
    return terms["fc2"], result

  (penalty, _), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    _MLP, data
  )
  expected = jax.jit(jax.value_and_grad(by_hand))(_MLP, data)
  assert_close((penalty, gradient), expected)
  (_, operands), activations, kernels = jax.jit(bean_jax.capture(loss_fn))(
    _MLP, data
  )
  assert_close((activations["fc2"], kernels["fc2"]), operands)


def _fast_weights(params, rows):
  """Returns the loss of kernels to which each sample adds what it says."""
  hidden = jnp.tanh(rows @ params["fc1"])
  kernels = params["fc2"][None] + hidden[:, :, None] * rows[:, None, :3]
  outputs = jnp.einsum("bn,bnm->bm", hidden, kernels)
  return _loss(outputs), (hidden[:, None], kernels)


def test_kernels_to_which_activity_is_added_are_taken_by_name():
  *_, layer = bean_jax.find_layers(_fast_weights, _MLP, INPUTS)
  assert layer[:3] == ("fc2", 6, 3)
  assert layer.left_out == "activity is added to its kernel, which may be none"
  with pytest.raises(ValueError, match="'fc2' .activity is added"):
    bean_jax.penalties(_fast_weights)(_MLP, INPUTS)
  penalties_fn = bean_jax.penalties(_fast_weights, layers="fc2")
  (_, operands), terms = jax.jit(penalties_fn)(_MLP, INPUTS)
  expected = jnp.mean(jax.vmap(bean_jax.layer_penalty)(*operands))
  assert_close(terms, {"fc2": expected})


@pytest.mark.parametrize("bias", (False, True), ids=("stream", "scores"))
def test_activity_to_which_parameters_are_added_is_no_kernel(bias):
  # Positions, of tokens that attention mixes, or of its own scores.
  def loss_fn(params, inputs):
    tokens = jnp.stack([inputs, inputs[::-1]]) @ params["fc1"]
    tokens = _norm_of_batch(tokens + params["positions"][None])
    scores = tokens @ jnp.swapaxes(tokens, 1, 2)
    if bias:
      tokens = jnp.tanh(tokens)
      scores = scores + params["bias"][None]
    mixed = jax.nn.softmax(scores) @ tokens
    outputs = jnp.mean(mixed, axis=1) @ params["fc2"]
    return _loss(outputs), {"fc2": (jnp.mean(mixed, axis=1), params["fc2"])}

  params = {
    **_MLP,
    "positions": _draw(NUM_SAMPLES, 6),
    "bias": _draw(NUM_SAMPLES, NUM_SAMPLES),
  }
  _, terms = bean_jax.penalties(loss_fn)(params, INPUTS)
  assert list(terms) == ["fc2"]
  found = {
    layer.path for layer in bean_jax.find_layers(loss_fn, params, INPUTS)
  }
  assert found == {"fc1", "fc2"} if bias else {"fc1", "fc2", "positions"}


@pytest.mark.parametrize("product", (jnp.matmul, jax.jit(jnp.matmul)))
@pytest.mark.parametrize("way", ("jvp", "by params", "scan", "jacfwd"))
def test_derivatives_in_forward_mode_are_no_calls(way, product):
  def network(params, rows):
    hidden = jnp.tanh(product(rows, params["fc1"]))
    hidden_2 = jnp.tanh(product(hidden, params["fc2"]))
    outputs = product(hidden_2, params["fc3"])
    return outputs, {
      "fc2": (hidden, params["fc2"]),
      "fc3": (hidden_2, params["fc3"]),
    }

  def loss_fn(params, inputs):
    outputs, layers = network(params, inputs)
    of_inputs = functools.partial(network, params)
    if way == "by params":
      steps = jax.tree.map(jnp.cos, (params, inputs))
      _, slopes, layers = jax.jvp(
        network, (params, inputs), steps, has_aux=True
      )
    elif way == "jvp":
      _, slopes, layers = jax.jvp(
        of_inputs, (inputs,), (jnp.cos(inputs),), has_aux=True
      )
    elif way == "scan":

      def step(rows, _):
        _, slopes, layers = jax.jvp(of_inputs, (rows,), (rows,), has_aux=True)
        return rows, (slopes, layers)

      _, (slopes, layers) = lax.scan(step, inputs, length=2)
    else:
      slopes, layers = jax.jacfwd(of_inputs, has_aux=True)(inputs[:2])
      return _loss(slopes), layers
    return _loss(outputs) + jnp.mean(slopes**2), layers

  params = {**_MLP, "fc3": FC3}
  (_, layers), terms = bean_jax.penalties(loss_fn)(params, INPUTS)
  expected = {
    path: bean_jax.layer_penalty(hidden, params[path])
    for path, (hidden, _) in layers.items()
  }
  assert_close(terms, expected)


def test_sums_that_are_written_as_no_product_are_named():
  def loss_fn(params, inputs):
    hidden = jnp.tanh(inputs @ params["fc1"])
    return _loss(jnp.sum(hidden[:, :, None] * params["fc2"][None], axis=1))

  *_, layer = bean_jax.find_layers(loss_fn, _MLP, INPUTS)
  assert layer[:3] == ("fc2", 6, 3)
  assert "not as a matrix product" in layer.left_out


def _ragged(hidden, kernel):
  sizes = jnp.array([2, 3], jnp.int32)
  return lax.ragged_dot(hidden, jnp.stack([kernel, kernel]), sizes)


def _called_back(hidden, kernel):
  shape = jax.ShapeDtypeStruct((NUM_SAMPLES, 3), hidden.dtype)
  return jax.pure_callback(np.matmul, shape, hidden, kernel)


def _sparse(hidden, kernel):
  indices = np.argwhere(np.ones((6, 3)))
  return hidden @ sparse.BCOO((kernel.ravel(), indices), shape=(6, 3))


class _Unheard(core.Primitive):
  """A matrix product of another library, which this one does not know."""


_unheard_p = _Unheard("unheard_of")
_unheard_p.def_abstract_eval(
  lambda hidden, kernel: hidden.update(shape=(hidden.shape[0], 3))
)


@pytest.mark.parametrize(
  ("product", "name"),
  (
    (_ragged, "jax.lax.ragged_dot"),
    (_called_back, "jax.pure_callback"),
    (_sparse, "bcoo_dot_general"),
    (_unheard_p.bind, "unheard_of"),
  ),
)
def test_products_that_cannot_be_seen_are_named(product, name):
  def loss_fn(params, inputs):
    hidden = jnp.tanh(inputs @ params["fc1"])
    return _loss(product(hidden, params["fc2"]))

  found = bean_jax.find_layers(loss_fn, _MLP, INPUTS)
  *_, layer = found
  left_out = f"it is called within {name}"
  assert layer == ("fc2", None, None, 1, left_out)
  assert f"fc2   ?  ?      1  left out: {left_out}" in str(found)
  with pytest.raises(ValueError, match=f"cannot be had: 'fc2': {left_out}"):
    bean_jax.regularize(loss_fn, alpha=1.0)(_MLP, INPUTS)


def test_parameters_that_are_one_array_have_a_name():
  def loss_fn(kernel, inputs):
    return _loss(jnp.tanh(inputs) @ kernel)

  (layer,) = bean_jax.find_layers(loss_fn, FC1, INPUTS)
  assert layer.path == "params"
  _, terms = bean_jax.penalties(loss_fn, layers="params")(FC1, INPUTS)
  assert_close(terms["params"], bean_jax.layer_penalty(jnp.tanh(INPUTS), FC1))


def test_integers_and_keys_among_parameters():
  params = {
    **_MLP,
    "key": jax.random.key_data(jax.random.key(0)),
    "step": jnp.int32(2),
    "bits": jnp.arange(9, dtype=jnp.int8).reshape(3, 3),
    "scale": jnp.ones((3, 3)),
  }
  check(
    draws_and_integers,
    params,
    INPUTS,
    raw=["fc1"],
    value_and_grad=functools.partial(jax.value_and_grad, allow_int=True),
  )


@pytest.mark.parametrize("loss_fn", CASES, ids=lambda fn: fn.__name__)
def test_layers_are_those_by_hand(loss_fn):
  params, args, raw = CASES[loss_fn]
  check(loss_fn, params, *args, raw=raw)
