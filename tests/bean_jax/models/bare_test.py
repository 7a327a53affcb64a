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
from tests.bean_jax.models.checks import assert_close, check, loss_of

DIM = 4
NUM_SAMPLES = 5


def _draw(*shape, seed=0):
  """Returns numbers that no two shapes or seeds share."""
  rng = np.random.default_rng((seed, *shape))
  return jnp.asarray(0.7 * rng.normal(size=shape), jnp.float32)


INPUTS = _draw(NUM_SAMPLES, DIM)
FC1, FC2, FC3 = _draw(DIM, 6), _draw(6, 3), _draw(3, 2)
MLP = {"fc1": FC1, "fc2": FC2}
# A loss function, its parameters, what else it takes, and its layers of raw
# data, by its name.
CASES = {}


def case(params=MLP, args=(INPUTS,), raw=("fc1",), **more):
  """Adds a loss function to the cases; further parameters join the first."""

  def add(loss_fn):
    every = {**params, **more} if more else params
    CASES[loss_fn.__name__] = (loss_fn, every, args, raw)
    return loss_fn

  return add


def network(*options, **more):
  """Adds the loss of a network, whose `dense(path, inputs, kernel)` notes."""

  def add(outputs_fn):
    @functools.wraps(outputs_fn)
    def loss_fn(params, *args):
      layers = {}

      def dense(path, inputs, kernel):
        layers[path] = (inputs, kernel)
        return inputs @ kernel

      return loss_of(outputs_fn(dense, params, *args)), layers

    case(*options, **more)(loss_fn)
    return loss_fn

  return add


def _hidden(params, inputs):
  return jnp.tanh(inputs @ params["fc1"])


def _rows(bias, inputs):
  return jnp.broadcast_to(bias, (len(inputs), len(bias)))


# Trees of parameters.


@network([(FC1, FC1[0]), (), (FC2, FC2[0])], raw=["0/0"])
def stax(dense, params, inputs):
  (fc1, bias1), (), (fc2, bias2) = params
  hidden = jax.nn.relu(inputs @ fc1 + _rows(bias1, inputs))
  return dense("2/0", hidden, fc2) + _rows(bias2, inputs)


class Layer(NamedTuple):
  kernel: jax.Array
  bias: jax.Array


@network(
  {f"fc{i}": Layer(k, k[0]) for i, k in enumerate((FC1, FC2, FC3))},
  raw=["fc0/kernel"],
)
def named_tuples(dense, params, inputs):
  hidden = jnp.tanh(inputs @ params["fc0"].kernel)
  for name in ("fc1", "fc2"):
    outputs = dense(f"{name}/kernel", hidden, params[name].kernel)
    hidden = jnp.tanh(outputs + _rows(params[name].bias, inputs))
  return hidden


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Network:
  encoder: tuple
  head: jax.Array
  name: str = dataclasses.field(metadata={"static": True}, default="net")


@network(Network((FC1, {"deep": (FC2,)}), FC3), raw=["encoder/0"])
def dataclass_of_tuples(dense, params, inputs):
  hidden = jnp.tanh(inputs @ params.encoder[0])
  deep = dense("encoder/1/deep/0", hidden, params.encoder[1]["deep"][0])
  return dense("head", jnp.tanh(deep), params.head)


@case(
  {"first": FC1, "fused": _draw(6, 6), "deep": _draw(2, 3, 3)}, raw=["first"]
)
def layers_of_one_array(params, inputs):
  """Kernels are slices of an array, as fused projections are."""
  hidden = jnp.tanh(inputs @ params["first"])
  query, key = jnp.split(params["fused"], 2, axis=1)
  scores = jnp.tanh(hidden @ query) + jnp.tanh(hidden @ key)
  deep = jnp.tanh(scores @ params["deep"][0])
  return loss_of(deep @ params["deep"][1]), {
    "fused[:, 0:3]": (hidden, query),
    "fused[:, 3:6]": (hidden, key),
    "deep[0]": (scores, params["deep"][0]),
    "deep[1]": (deep, params["deep"][1]),
  }


@network(_draw(50), raw=["params[0:24]"])
def flat_vector(dense, params, inputs):
  """All parameters in one vector, as evolution strategies keep them."""
  hidden = jnp.tanh(inputs @ params[:24].reshape(DIM, 6))
  return dense("params[24:42]", hidden, params[24:42].reshape(6, 3))


# Ways to write a product.


@case(
  {"query": _draw(DIM, 2, 3), "out": _draw(2, 3, DIM), "scale": FC1[0, 0]},
  raw=(),
)
def heads_by_einsum(params, inputs):
  """Heads [D, H, K] and a projection [H, K, D] of them, as attention has."""
  tokens = inputs[None] + jnp.tanh(inputs[None] * params["scale"])
  heads = jnp.tanh(jnp.einsum("bsd,dhk->bhsk", tokens, params["query"]))
  outputs = jnp.einsum("bhsk,hkd->bsd", heads, params["out"])
  rows = jnp.moveaxis(heads, 1, 2).reshape(1, NUM_SAMPLES, -1)
  return loss_of(outputs), {
    "query": (tokens, params["query"].reshape(DIM, -1)),
    "out": (rows, params["out"].reshape(-1, DIM)),
  }


@case({"fc1": FC1.T, "fc2": FC2.T, "fc3": FC3.T})
def transposed(params, inputs):
  hidden = jnp.tanh(inputs @ params["fc1"].T)
  hidden_2 = jnp.tanh(params["fc2"] @ hidden.T)
  outputs = lax.dot_general(params["fc3"], hidden_2, (((1,), (0,)), ((), ())))
  return loss_of(outputs), {
    "fc2": (hidden, params["fc2"].T),
    "fc3": (hidden_2.T, params["fc3"].T),
  }


@case()
def transposed_by_jax(params, inputs):
  """A decoder that is the transpose of a linear function."""
  hidden = _hidden(params, inputs)
  shape = jax.ShapeDtypeStruct((len(hidden), 3), hidden.dtype)
  decode = jax.linear_transpose(lambda rows: rows @ params["fc2"].T, shape)
  return loss_of(decode(hidden)[0]), {"fc2": (hidden, params["fc2"])}


@case()
def samples_by_vmap(params, inputs):
  def of_one(row):
    hidden = jnp.tanh(params["fc1"].T @ row)
    return hidden, params["fc2"].T @ hidden

  hidden, outputs = jax.vmap(of_one)(inputs)
  return loss_of(outputs), {"fc2": (hidden, params["fc2"])}


@case({"fc1": FC1, "readout": FC2[:, 0]})
def vector_of_weights(params, inputs):
  hidden = _hidden(params, inputs)
  return loss_of(hidden @ params["readout"]), {
    "readout": (hidden, params["readout"][:, None])
  }


@case()
def half_precision(params, inputs):
  half = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
  hidden = jnp.tanh(half(inputs) @ half(params["fc1"]))
  kernel = half(params["fc2"])
  outputs = jnp.einsum(
    "bn,nm->bm", hidden, kernel, preferred_element_type=jnp.float32
  )
  return loss_of(outputs), {"fc2": (hidden, kernel)}


# Kernels that are made of parameters.


@network(
  {"embedding": _draw(7, DIM), "fc": _draw(DIM, DIM)},
  (jnp.array([[0, 3], [6, 2]]),),
  (),
)
def tied_embedding(dense, params, tokens):
  hidden = jnp.tanh(dense("fc", params["embedding"][tokens], params["fc"]))
  return dense("embedding", hidden, params["embedding"].T)


@network({"fc": FC1, "code": FC2}, raw=["fc"])
def tied_autoencoder(dense, params, inputs):
  """The kernel takes part both ways: two layers, one of raw data."""
  hidden = jnp.tanh(inputs @ params["fc"])
  code = jnp.tanh(dense("code", hidden, params["code"]))
  hidden = jnp.tanh(dense("code.T", code, params["code"].T))
  return dense("fc.T", hidden, params["fc"].T)


@network()
def mask_of_kernel(dense, params, inputs):
  mask = np.arange(18).reshape(6, 3) % 4 != 0
  hidden = jnp.tanh(inputs @ (params["fc1"] * np.tri(DIM, 6)))
  return dense("fc2", hidden, jnp.where(mask, params["fc2"], 0))


@network(MLP, (INPUTS, np.float32(np.arange(18).reshape(6, 3) % 4 != 0)))
def mask_among_arguments(dense, params, inputs, mask):
  return dense("fc2", _hidden(params, inputs), params["fc2"] * mask)


@network(scale=jnp.float32(2))
def normalized_weights(dense, params, inputs):
  def normalized(kernel):
    norms = jnp.sqrt(jnp.sum(kernel**2, axis=0, keepdims=True) + 1e-6)
    return params["scale"] * kernel / norms

  hidden = jnp.tanh(inputs @ normalized(params["fc1"]))
  return dense("fc2", hidden, normalized(params["fc2"]))


@network(MLP, (INPUTS, _draw(3)))
def normalized_by_power_iteration(dense, params, inputs, vector):
  """The products that estimate the norm of a kernel are no layers."""
  kernel = params["fc2"]
  for _ in range(2):
    left = kernel @ vector
    vector = kernel.T @ (left / jnp.linalg.norm(left))
    vector = vector / jnp.linalg.norm(vector)
  kernel = kernel / jnp.linalg.norm(kernel @ vector)
  return dense("fc2", _hidden(params, inputs), kernel)


@network(down=_draw(6, 1), up=_draw(1, 3))
def low_rank_merged(dense, params, inputs):
  kernel = params["fc2"] + params["down"] @ params["up"]
  return dense("fc2", _hidden(params, inputs), kernel)


@network(
  {"down": _draw(6, 2), "up": _draw(2, 3), "head": FC3}, (INPUTS, MLP), ["down"]
)
def low_rank_alone(dense, params, inputs, frozen):
  """Only the adapters are trained: the frozen network is data."""
  hidden = _hidden(frozen, inputs)
  low = dense("up", hidden @ params["down"], params["up"])
  outputs = jnp.tanh(hidden @ frozen["fc2"] + low)
  return dense("head", outputs, params["head"])


@network({"fc1": _draw(DIM, 3), "fc3": _draw(3, 3)})
def solved_for_the_kernel(dense, params, inputs):
  """The Cayley transform makes an orthogonal kernel by linear algebra."""
  skew = params["fc3"] - params["fc3"].T
  kernel = jnp.linalg.solve(jnp.eye(3) + skew, jnp.eye(3) - skew)
  return dense("fc3", _hidden(params, inputs), kernel)


@network(MLP, (INPUTS, jnp.array([1, 2])))
def scattered(dense, params, inputs, index):
  """Pruned neurons, and a row that is written anew, leave the kernel."""
  return dense("fc2", _hidden(params, inputs), params["fc2"].at[index].set(0.0))


@network(
  {"fc1": _draw(2, 6), "fc2": _draw(6, 12), "fc3": FC3}, (INPUTS, _draw(2))
)
def generated_kernel(dense, params, inputs, task):
  """A network that makes a kernel: its own layers have kernels, it has none."""
  code = jnp.tanh(task @ params["fc1"])
  kernel = dense("fc2", code[None], params["fc2"]).reshape(DIM, 3)
  return dense("fc3", jnp.tanh(inputs @ kernel), params["fc3"])


# What is no layer: data, and derivatives.


@network()
def fixed_projection(dense, params, inputs):
  """A closed-over random matrix is no layer, and what it makes is data."""
  hidden = _hidden(params, jnp.tanh(inputs @ _draw(DIM, DIM, seed=3)))
  return dense("fc2", hidden, params["fc2"])


@network()
def frozen_between(dense, params, inputs):
  """A frozen layer between two that learn is data, too."""
  hidden = jnp.tanh(_hidden(params, inputs) @ _draw(6, 6, seed=3))
  return dense("fc2", hidden, params["fc2"])


@network(MLP, ())
def coordinates(dense, params):
  """Coordinates that the network makes itself are raw data."""
  grid = jnp.stack([jnp.linspace(0, 1, 7)] * DIM, axis=1)
  return dense("fc2", _hidden(params, grid), params["fc2"])


@case(
  MLP,
  (jax.random.key_data(jax.random.key(0)), _draw(NUM_SAMPLES, 3)),
  critic=_draw(3, 3),
  fc3=FC3,
)
def generator_and_critic(params, key, inputs):
  """Noise that is drawn inside is raw data, too."""
  key = jax.random.wrap_key_data(key)
  hidden = _hidden(params, jax.random.normal(key, (NUM_SAMPLES, DIM)))
  made = hidden @ params["fc2"]
  judged = [jnp.tanh(rows @ params["critic"]) for rows in (made, inputs)]
  loss = loss_of(judged[0] @ params["fc3"]) - loss_of(judged[1] @ params["fc3"])
  return loss, {
    "fc2": (hidden, params["fc2"]),
    "critic": (made, params["critic"]),
    "fc3": (jnp.concatenate(judged), params["fc3"]),
  }


@network()
def stopped_gradient(dense, params, inputs):
  hidden = lax.stop_gradient(_hidden(params, inputs))
  return dense("fc2", hidden, lax.stop_gradient(params["fc2"]))


@network()
def adapted_by_a_step(dense, params, inputs):
  """MAML: the layers are those that the outer loss computes with."""

  def inner(params, inputs):
    return loss_of(_hidden(params, inputs) @ params["fc2"])

  gradient = jax.grad(inner)(params, inputs[::-1])
  adapted = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
  return dense("fc2", _hidden(adapted, inputs), adapted["fc2"])


def _energy(params, inputs):
  """Returns an energy, its layers, and its outputs."""
  hidden = _hidden(params, inputs)
  hidden_2 = jnp.tanh(hidden @ params["fc2"])
  outputs = hidden_2 @ params["fc3"]
  layers = {"fc2": (hidden, params["fc2"]), "fc3": (hidden_2, params["fc3"])}
  return jnp.sum(outputs), (layers, outputs)


@case(fc3=FC3)
def gradient_penalty(params, inputs):
  slope_fn = jax.grad(_energy, argnums=1, has_aux=True)
  slopes, (layers, outputs) = slope_fn(params, inputs)
  return loss_of(outputs) + jnp.mean(slopes**2), layers


@case(fc3=FC3)
def score_matching(params, inputs):
  """Only the gradient of an energy counts, and not the energy."""
  slopes, (layers, _) = jax.grad(_energy, 1, has_aux=True)(params, inputs)
  return jnp.mean((slopes + inputs) ** 2), layers


@case(
  {"key": FC1, "latents": _draw(2, 3), "query": _draw(3, 6), "out": FC2},
  raw=["key"],
)
def latent_queries(params, inputs):
  """Queries made of parameters alone (Perceiver) are a kernel for the keys."""
  keys = inputs @ params["key"]
  queries = params["latents"] @ params["query"]
  mixed = jax.nn.softmax(queries @ keys.T) @ keys
  return loss_of(mixed @ params["out"]), {
    "query": (keys, queries.T),
    "out": (mixed, params["out"]),
  }


@network(
  {"class": _draw(1, 1, 6), "positions": _draw(NUM_SAMPLES + 1, 6), "out": FC2},
  **{name: _draw(6, 6, seed=ord(name)) for name in "qkv"},
  fc1=FC1,
)
def attention(dense, params, inputs):
  """Attention in a sequence, with learned positions and a class token."""
  tokens = jnp.stack([inputs, inputs[::-1]]) @ params["fc1"]
  first = jnp.broadcast_to(params["class"], (2, 1, 6))
  tokens = jnp.concatenate([first, tokens], axis=1)
  tokens += jnp.broadcast_to(params["positions"][None], tokens.shape)
  query, key, value = (dense(name, tokens, params[name]) for name in "qkv")
  scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key))
  return dense("out", jnp.einsum("bqk,bkd->bqd", scores, value), params["out"])


# Layers that are called several times, or stacked.


@case(scale=jnp.float32(2))
def called_twice(params, inputs):
  """A head on two batches of other sizes: one layer, both batches."""
  hidden = _hidden(params, inputs)
  other = jnp.tanh(hidden[:2] * params["scale"])
  loss = loss_of(hidden @ params["fc2"]) + loss_of(other @ params["fc2"])
  return loss, {"fc2": (jnp.concatenate([hidden, other]), params["fc2"])}


@case()
def twice_in_a_row(params, inputs):
  """Two products with nothing between them are no value and its tangent."""
  hidden = _hidden(params, inputs)
  other = jnp.tanh(hidden)
  outputs = jnp.stack([hidden @ params["fc2"], other @ params["fc2"]])
  rows = jnp.concatenate([hidden, other])
  return loss_of(outputs), {"fc2": (rows, params["fc2"])}


@case(gate=_draw(6, 2), experts=_draw(2, 6, 3), fc2=FC2)
def gated_experts(params, inputs):
  """Experts [E, N, M] that all see the same neurons, and a gate."""
  hidden = _hidden(params, inputs)
  gate = jax.nn.softmax(hidden @ params["gate"])
  outputs = jnp.einsum("bn,enm->ebm", hidden, params["experts"])
  outputs = jnp.einsum("ebm,be->bm", jnp.tanh(outputs), gate)
  return loss_of(outputs), {
    "gate": (hidden, params["gate"]),
    "experts": (hidden, jnp.concatenate(list(params["experts"]), axis=1)),
  }


@case(experts=_draw(2, 6, 3))
def routed_experts(params, inputs):
  """Each expert [N, M] of a stack, by vmap, sees samples of its own."""
  routed = _hidden(params, inputs[:4]).reshape(2, 2, 6)
  outputs = jax.vmap(jnp.matmul)(routed, params["experts"])
  return loss_of(outputs), {
    f"experts[{i}]": (routed[i], params["experts"][i]) for i in range(2)
  }


@case({"input": FC1, "recurrent": _draw(3, 6), "head": FC3}, raw=["input"])
def recurrent(params, inputs):
  """A cell whose kernels all steps share, and a fused kernel."""

  def step(hidden, rows):
    gates = rows @ params["input"] + hidden @ params["recurrent"]
    update, candidate = jnp.split(gates, 2, axis=-1)
    new = jax.nn.sigmoid(update) * hidden + jnp.tanh(candidate)
    return new, hidden

  sequence = jnp.stack([inputs, inputs**2, -inputs])
  start = jnp.zeros((NUM_SAMPLES, 3))
  last, before = lax.scan(step, start, sequence, reverse=True)
  return loss_of(last @ params["head"]), {
    "recurrent": (before, params["recurrent"]),
    "head": (last, params["head"]),
  }


@case({"fc1": _draw(DIM, 3), "recurrent": _draw(3, 3), "fc3": FC3})
def unrolled_from_zeros(params, inputs):
  """The zeros that recurrence starts from are no neurons."""
  hidden = jnp.zeros((NUM_SAMPLES, 3))
  before = []
  for rows in (inputs, -inputs, inputs**2):
    before.append(hidden)
    hidden = jnp.tanh(rows @ params["fc1"] + hidden @ params["recurrent"])
  return loss_of(hidden @ params["fc3"]), {
    "recurrent": (jnp.concatenate(before[1:]), params["recurrent"]),
    "fc3": (hidden, params["fc3"]),
  }


@case({"fc1": FC1, "deep": _draw(2, 6, 6)})
def index_of_a_loop(params, inputs):
  """Each step of a loop takes its kernel by its own number."""

  def step(hidden, index):
    return jnp.tanh(hidden @ params["deep"][index]), hidden

  hidden, before = lax.scan(step, _hidden(params, inputs), jnp.arange(2))
  return loss_of(hidden), {
    f"deep[{i}]": (before[i], params["deep"][i]) for i in range(2)
  }


# Transformations beside and around layers.


def _norm_of_batch(hidden):
  mean = jnp.mean(hidden, axis=0, keepdims=True)
  return (hidden - mean) / jnp.sqrt(
    jnp.var(hidden, axis=0, keepdims=True) + 1e-3
  )


@case()
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
  return loss_of(outputs), {"fc2": (hidden, params["fc2"])}


@pytest.mark.parametrize("name", CASES)
def test_layers_are_those_by_hand(name):
  loss_fn, params, args, raw = CASES[name]
  check(loss_fn, params, *args, raw=raw)


def draws_and_integers(params, inputs):
  """Dropout, a step, quantized weights and a key among the parameters."""
  key = jax.random.fold_in(jax.random.wrap_key_data(params["key"]), 3)
  hidden = _hidden(params, inputs)
  keep = jax.random.bernoulli(key, 0.7, hidden.shape)
  hidden = jnp.where(keep, hidden, 0) / params["step"]
  outputs = jnp.tanh(hidden @ params["fc2"])
  kernel = params["bits"] * params["scale"]
  return loss_of(outputs @ kernel), {
    "fc2": (hidden, params["fc2"]),
    "scale": (outputs, kernel),
  }


def test_integers_and_keys_among_parameters():
  params = {
    **MLP,
    "key": jax.random.key_data(jax.random.key(0)),
    "step": jnp.int32(2),
    "bits": jnp.arange(9, dtype=jnp.int8).reshape(3, 3),
    "scale": jnp.ones((3, 3)),
  }
  value_and_grad = functools.partial(jax.value_and_grad, allow_int=True)
  check(
    draws_and_integers,
    params,
    INPUTS,
    raw=["fc1"],
    value_and_grad=value_and_grad,
  )


def _adapted_loss(params, task):
  """Returns the loss after a step on a task, and the operands of fc2."""
  gradient = jax.grad(lambda p: loss_of(_hidden(p, task) @ p["fc2"]))(params)
  adapted = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
  hidden = _hidden(adapted, -task)
  return loss_of(hidden @ adapted["fc2"]), (hidden, adapted["fc2"])


def _modulated_loss(params, row):
  """Returns the loss of a kernel whose rows a sample scales."""
  hidden = _hidden(params, row[None])
  kernel = params["fc2"] * jax.nn.sigmoid(hidden.T)
  return loss_of(hidden @ kernel), (hidden, kernel)


@pytest.mark.parametrize(
  "loss_of_one, data",
  (
    (_adapted_loss, jnp.stack([INPUTS, 2 * INPUTS])),
    (_modulated_loss, INPUTS[:2]),
  ),
  ids=("adapted", "modulated"),
)
@pytest.mark.parametrize("loop", ("vmap", "map"))
def test_kernels_that_data_change(loss_of_one, data, loop):
  # The penalty is the mean over tasks, or samples, with a kernel each.
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
    _, terms = bean_jax.penalties(loss_fn)(params, data)
    assert list(terms) == ["fc2"]
    return terms["fc2"]

  assert_close(
    *(jax.jit(jax.value_and_grad(fn))(MLP, data) for fn in (ours, by_hand))
  )
  (_, operands), activations, kernels = jax.jit(bean_jax.capture(loss_fn))(
    MLP, data
  )
  assert_close((activations["fc2"], kernels["fc2"]), operands)


@pytest.mark.parametrize("change", (jnp.add, jnp.multiply))
def test_kernels_that_activity_changes_are_taken_by_name(change):
  def fast_weights(params, rows):
    hidden = _hidden(params, rows)
    updates = hidden[:, :, None] * rows[:, None, :3]
    kernels = change(params["fc2"][None], updates)
    outputs = jnp.einsum("bn,bnm->bm", hidden, kernels)
    return loss_of(outputs), (hidden[:, None], kernels)

  *_, layer = bean_jax.find_layers(fast_weights, MLP, INPUTS)
  why = "activity changes its kernel, which may be none"
  assert layer == ("fc2", 6, 3, 1, why)
  with pytest.raises(ValueError, match="'fc2' .activity changes"):
    bean_jax.penalties(fast_weights)(MLP, INPUTS)
  penalties_fn = bean_jax.penalties(fast_weights, layers="fc2")
  (_, operands), terms = jax.jit(penalties_fn)(MLP, INPUTS)
  expected = jnp.mean(jax.vmap(bean_jax.layer_penalty)(*operands))
  assert_close(terms, {"fc2": expected})


@pytest.mark.parametrize("change", (jnp.add, jnp.multiply))
def test_a_changed_kernel_of_a_stream_with_positions_is_found(change):
  # Both are made of parameters and of data; the stream is no kernel.
  def loss_fn(params, rows):
    hidden = _hidden(params, rows)
    tokens = jnp.stack([hidden, hidden**2], axis=1)
    stream = change(tokens, params["positions"][None])
    kernels = params["fc2"][None] * jax.nn.sigmoid(hidden)[:, :, None]
    outputs = jnp.einsum("btn,bnm->btm", stream, kernels)
    return loss_of(outputs), (stream, kernels)

  params = {**MLP, "positions": _draw(2, 6)}
  (_, operands), terms = bean_jax.penalties(loss_fn)(params, INPUTS)
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
    return loss_of(jnp.mean(mixed, axis=1) @ params["fc2"])

  params = {
    **MLP,
    "positions": _draw(NUM_SAMPLES, 6),
    "bias": _draw(NUM_SAMPLES, NUM_SAMPLES),
  }
  found = bean_jax.find_layers(loss_fn, params, INPUTS)
  assert [layer.path for layer in found if not layer.left_out] == ["fc2"]


@pytest.mark.parametrize("product", (jnp.matmul, jax.jit(jnp.matmul)))
@pytest.mark.parametrize("way", ("jvp", "by params", "scan", "jacfwd"))
def test_derivatives_in_forward_mode_are_no_calls(way, product):
  def outputs_and_layers(params, rows):
    hidden = jnp.tanh(product(rows, params["fc1"]))
    hidden_2 = jnp.tanh(product(hidden, params["fc2"]))
    layers = {"fc2": hidden, "fc3": hidden_2}
    return product(hidden_2, params["fc3"]), layers

  def loss_fn(params, inputs):
    of_inputs = functools.partial(outputs_and_layers, params)
    jvp = functools.partial(jax.jvp, has_aux=True)

    def step(rows, _):
      return rows, jvp(of_inputs, (rows,), (rows,))[1:]

    if way == "by params":
      steps = jax.tree.map(jnp.cos, (params, inputs))
      _, slopes, layers = jvp(outputs_and_layers, (params, inputs), steps)
    elif way == "jvp":
      _, slopes, layers = jvp(of_inputs, (inputs,), (jnp.cos(inputs),))
    elif way == "scan":
      _, (slopes, layers) = lax.scan(step, inputs, length=2)
    else:
      slopes, layers = jax.jacfwd(of_inputs, has_aux=True)(inputs[:2])
      return loss_of(slopes), layers
    outputs, layers = of_inputs(inputs) if way != "scan" else (0.0, layers)
    return loss_of(jnp.asarray(outputs)) + jnp.mean(slopes**2), layers

  params = {**MLP, "fc3": FC3}
  (_, layers), terms = bean_jax.penalties(loss_fn)(params, INPUTS)
  assert_close(
    terms,
    {p: bean_jax.layer_penalty(layers[p], params[p]) for p in layers},
  )


def test_parameters_that_are_one_array_have_a_name():
  def loss_fn(kernel, inputs):
    return loss_of(jnp.tanh(inputs) @ kernel)

  (layer,) = bean_jax.find_layers(loss_fn, FC1, INPUTS)
  assert layer.path == "params"
  _, terms = bean_jax.penalties(loss_fn, layers="params")(FC1, INPUTS)
  assert_close(terms["params"], bean_jax.layer_penalty(jnp.tanh(INPUTS), FC1))


def _ragged(hidden, kernel):
  sizes = jnp.array([2, 3], jnp.int32)
  return lax.ragged_dot(hidden, jnp.stack([kernel, kernel]), sizes)


def _called_back(hidden, kernel):
  shape = jax.ShapeDtypeStruct((NUM_SAMPLES, 3), hidden.dtype)
  return jax.pure_callback(np.matmul, shape, hidden, kernel)


def _sparse(hidden, kernel):
  indices = np.argwhere(np.ones((6, 3)))
  return hidden @ sparse.BCOO((kernel.ravel(), indices), shape=(6, 3))


# A matrix product of another library, which this one does not know.
_unheard_p = core.Primitive("unheard_of")
_unheard_p.def_abstract_eval(
  lambda hidden, kernel: hidden.update(shape=(hidden.shape[0], 3))
)


def _summed(hidden, kernel):
  return jnp.sum(hidden[:, :, None] * kernel[None], axis=1)


@pytest.mark.parametrize(
  "product, sizes, reason",
  (
    (_ragged, (None, None), "called within jax.lax.ragged_dot"),
    (_called_back, (None, None), "called within jax.pure_callback"),
    (_sparse, (None, None), "called within bcoo_dot_general"),
    (_unheard_p.bind, (None, None), "called within unheard_of"),
    (_summed, (6, 3), "written as a sum of products"),
  ),
)
def test_products_that_cannot_be_seen_are_named(product, sizes, reason):
  def loss_fn(params, inputs):
    return loss_of(product(_hidden(params, inputs), params["fc2"]))

  found = bean_jax.find_layers(loss_fn, MLP, INPUTS)
  *_, layer = found
  assert layer[:4] == ("fc2", *sizes, 1)
  assert reason in layer.left_out
  row = "  ".join("?" if size is None else str(size) for size in sizes)
  assert f"fc2   {row}      1  left out: {layer.left_out}" in str(found)
  with pytest.raises(ValueError, match=f"cannot be had: 'fc2': .*{reason}"):
    bean_jax.regularize(loss_fn, alpha=1.0)(MLP, INPUTS)
