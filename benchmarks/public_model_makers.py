"""Public models in small: makers of (loss_fn, params, *data) by package.

All come from their packages as they are, with random parameters. What is local
to a maker is what a user writes to call a model of that library.
"""

from collections.abc import Callable
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Case = tuple[Any, ...]

KEY = jax.random.PRNGKey(0)
FLOATS = jax.random.normal(jax.random.key(1), (4, 5))
SEQUENCE = jax.random.normal(jax.random.key(2), (2, 6, 8))
TOKENS = jax.random.randint(jax.random.key(3), (2, 6), 2, 30)
IMAGES = jax.random.uniform(jax.random.key(4), (2, 32, 32, 3))
CHANNELS_FIRST = IMAGES.transpose(0, 3, 1, 2)
SENDERS, RECEIVERS = jnp.array([0, 1, 2, 3]), jnp.array([1, 2, 3, 0])

MAKERS: dict[str, tuple[str, Callable[[], Case]]] = {}


class _Package:
  """A module that is imported when something of it is looked up."""

  def __init__(self, name: str):
    self._name = name

  def __getattr__(self, name: str) -> Any:
    return getattr(importlib.import_module(self._name), name)


distrax, dfx = _Package("distrax"), _Package("diffrax")
eqx, hk, jraph = _Package("equinox"), _Package("haiku"), _Package("jraph")
keras, linen, nnx = map(_Package, ("keras", "flax.linen", "flax.nnx"))


def _model(package: str, name: str) -> Callable[[Any], Any]:
  """Enters a maker by the name of its package in the index, and its own."""

  def enter(maker: Callable[[], Case]) -> Callable[[], Case]:
    MAKERS[name] = package, maker
    return maker

  return enter


def _loss(outputs: PyTree) -> jax.Array:
  """Returns a loss of all floats that a model returns."""
  return sum(
    jnp.mean(jnp.tanh(x - 0.3) ** 2)
    for x in jax.tree.leaves(outputs)
    if jnp.issubdtype(jnp.result_type(x), jnp.floating)
  )


def _of(apply: Callable[..., Any], params: PyTree, *inputs: PyTree) -> Case:
  return (lambda *args: _loss(apply(*args))), params, *inputs


def _linen(net: Any, *inputs: PyTree, **options: Any) -> Case:
  variables = dict(net.init(KEY, *inputs, **options))
  params = variables.pop("params")

  def apply(params: PyTree, *inputs: PyTree) -> PyTree:
    return net.apply({"params": params, **variables}, *inputs, **options)

  return _of(apply, params, *inputs)


def _nnx(net: Any, *inputs: PyTree) -> Case:
  graph, params, rest = nnx.split(net, nnx.Param, ...)
  return _of(lambda p, *x: nnx.merge(graph, p, rest)(*x), params, *inputs)


def _eqx(net: Any, *inputs: PyTree, call: Any = None) -> Case:
  params, rest = eqx.partition(net, eqx.is_inexact_array)
  call = call or (lambda net, x: net(x))

  def apply(params: PyTree, *inputs: PyTree) -> PyTree:
    net = eqx.combine(params, rest)
    return jax.vmap(functools.partial(call, net))(*inputs)

  return _of(apply, params, *inputs)


def _haiku(fn: Callable[..., Any], *inputs: PyTree) -> Case:
  net = hk.transform_with_state(fn)
  params, state = net.init(KEY, *inputs)
  return _of(lambda p, *x: net.apply(p, state, KEY, *x)[0], params, *inputs)


def _keras(net: Any, *inputs: PyTree) -> Case:
  params = [variable.value for variable in net.trainable_variables]
  rest = [variable.value for variable in net.non_trainable_variables]
  return _of(lambda p, x: net.stateless_call(p, rest, x)[0], params, *inputs)


def _enter_transformers() -> None:
  """Enters models of transformers, by the prefix of model and configuration."""
  sizes = {
    "vocab_size": 31,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
  }
  gpt = {"n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
  bart = {f"{part}_layers": 1 for part in ("encoder", "decoder")}
  bart |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
  bart |= {f"{part}_ffn_dim": 12 for part in ("encoder", "decoder")}
  bart |= {"d_model": 8, "max_position_embeddings": 16}
  image = {**sizes, "image_size": 32, "patch_size": 16}
  for prefix, head, inputs, config in (
    ("Bert", "ForSequenceClassification", TOKENS, sizes),
    ("Albert", "Model", TOKENS, {**sizes, "embedding_size": 6}),
    ("GPT2", "LMHeadModel", TOKENS, {**gpt, "vocab_size": 31}),
    ("Llama", "ForCausalLM", TOKENS, sizes),
    ("Bart", "ForConditionalGeneration", TOKENS, {**bart, "vocab_size": 31}),
    ("ViT", "ForImageClassification", CHANNELS_FIRST, image),
  ):

    def make(prefix=prefix, head=head, inputs=inputs, config=config) -> Case:
      library = importlib.import_module("transformers")
      of_sizes = getattr(library, f"{prefix}Config")(**config)
      net = getattr(library, f"Flax{prefix}{head}")(of_sizes, seed=0)
      run = lambda params, x: list(net(x, params=params).values())
      return _of(run, net.params, inputs)

    _model("transformers", f"Flax{prefix}{head}")(make)


def _path(path: str) -> Any:
  """Returns what a dotted path names."""
  module, name = path.rsplit(".", 1)
  return getattr(importlib.import_module(module), name)


def _enter_single() -> None:
  """Enters models that a line makes."""
  lstm = lambda: hk.DeepRNN([hk.LSTM(6), hk.GRU(5)])
  wide, image = SEQUENCE[:, :2], CHANNELS_FIRST[..., :16, :16]
  vit = {"img_size": 16, "in_channels": 3, "dim": 8, "patch_size": 8}
  vit |= {"num_heads": [2], "depths": [2], "num_classes": 3, "key": KEY}
  for package, name, make in (
    (
      "flax",
      "linen.RNN(LSTMCell)",
      lambda: _linen(linen.RNN(linen.LSTMCell(6)), SEQUENCE),
    ),
    (
      "flax",
      "linen.MultiHeadDotProductAttention",
      lambda: _linen(linen.MultiHeadDotProductAttention(2), SEQUENCE),
    ),
    (
      "flax",
      "nnx: Linear, MultiHeadAttention, LoRALinear",
      lambda: _nnx(
        nnx.Sequential(
          nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
          nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(1)),
          nnx.LoRALinear(8, 3, lora_rank=2, rngs=nnx.Rngs(2)),
        ),
        SEQUENCE,
      ),
    ),
    (
      "equinox",
      "nn.MLP",
      lambda: _eqx(eqx.nn.MLP(5, 2, 6, 3, key=KEY), FLOATS),
    ),
    (
      "equinox",
      "nn.MLP(scan=True)",
      lambda: _eqx(eqx.nn.MLP(5, 2, 6, 3, scan=True, key=KEY), FLOATS),
    ),
    (
      "equinox",
      "nn.MultiheadAttention, twice",
      lambda: _eqx(
        eqx.nn.MultiheadAttention(2, 8, key=KEY),
        SEQUENCE,
        call=lambda net, x: net(net(x, x, x), x, x),
      ),
    ),
    (
      "dm-haiku",
      "nets.MLP",
      lambda: _haiku(lambda x: hk.nets.MLP([6, 5, 2])(x), FLOATS),
    ),
    (
      "dm-haiku",
      "DeepRNN(LSTM, GRU)",
      lambda: _haiku(
        lambda x: hk.dynamic_unroll(lstm(), x, lstm().initial_state(6))[0],
        SEQUENCE,
      ),
    ),
    ("keras", "MultiHeadAttention, GRU", _keras_attention),
    (
      "e3nn-jax",
      "flax.MultiLayerPerceptron",
      lambda: _linen(
        _path("e3nn_jax.flax.MultiLayerPerceptron")((6, 5, 2), jax.nn.gelu),
        FLOATS,
      ),
    ),
    (
      "e3x",
      "nn.Dense, twice",
      lambda: _linen(
        linen.Sequential(
          [
            _path("e3x.nn.Dense")(6),
            _path("e3x.nn.silu"),
            _path("e3x.nn.Dense")(3),
          ]
        ),
        jax.random.normal(KEY, (4, 2, 4, 5)),
      ),
    ),
    (
      "PaLM-jax",
      "palm_lite.PaLM",
      lambda: _eqx(
        _path("palm_jax.palm_lite.PaLM")(
          num_tokens=31, dim=8, dim_head=4, depth=2, heads=2, key=KEY
        ),
        TOKENS,
      ),
    ),
    (
      "jax-unirep",
      "models.MLSTM",
      lambda: _eqx(
        _path("jax_unirep.models.MLSTM")(2, 6, KEY, embedding_dim=4),
        jax.nn.one_hot(TOKENS % 26, 26),
      ),
    ),
    (
      "jaxonmodels",
      "VisionTransformer",
      lambda: _eqx(
        _path("jaxonmodels.models.vit.VisionTransformer")(
          16, 8, 8, 2, 2, 3, key=KEY
        ),
        image,
      ),
    ),
    (
      "Equimo",
      "VisionTransformer",
      lambda: _eqx(
        _path("equimo.models.vit.VisionTransformer")(**vit),
        image,
        call=lambda net, x: net(x, key=KEY, inference=True),
      ),
    ),
    (
      "jaxkan",
      "KAN",
      lambda: _nnx(
        _path("jaxkan.models.KAN.KAN")(
          [5, 4, 2], "base", {"k": 3, "G": 3}, seed=0
        ),
        FLOATS,
      ),
    ),
    (
      "pdequinox",
      "ClassicUNet",
      lambda: _eqx(
        _path("pdequinox.arch.ClassicUNet")(
          1, 2, 1, hidden_channels=3, num_levels=2, key=KEY
        ),
        wide,
      ),
    ),
    (
      "ott-jax",
      "ICNN",
      lambda: _linen(
        _path("ott.neural.networks.icnn.ICNN")(5, (6, 6), pos_weights=True),
        FLOATS,
      ),
    ),
    (
      "mamba2-jax",
      "Mamba2ForCausalLM",
      lambda: _nnx(
        _path("mamba2_jax.Mamba2ForCausalLM")(
          _path("mamba2_jax.Mamba2Config")(
            vocab_size=31,
            hidden_size=8,
            state_size=4,
            head_dim=4,
            chunk_size=2,
            num_hidden_layers=2,
          ),
          rngs=nnx.Rngs(0),
        ),
        TOKENS,
      ),
    ),
    ("numpyro", "AutoregressiveNN", lambda: _numpyro("AutoregressiveNN", [6])),
    (
      "flowjax",
      "masked_autoregressive_flow",
      lambda: _flow("masked_autoregressive_flow"),
    ),
    ("flowjax", "coupling_flow", lambda: _flow("coupling_flow")),
  ):
    _model(package, name)(make)


def _keras_attention() -> Case:
  tokens = keras.Input((6, 8))
  mixed = keras.layers.MultiHeadAttention(2, 4)(tokens, tokens)
  state = keras.layers.GRU(5)(tokens + mixed)
  return _keras(keras.Model(tokens, keras.layers.Dense(3)(state)), SEQUENCE)


def _numpyro(name: str, *sizes: Any) -> Case:
  init, apply = _path(f"numpyro.nn.{name}")(5, *sizes)
  return _of(apply, init(KEY, (5,))[1], FLOATS)


def _flow(name: str) -> Case:
  base = _path("flowjax.distributions.Normal")(jnp.zeros(5))
  net = _path(f"flowjax.flows.{name}")(
    KEY, base_dist=base, flow_layers=2, nn_width=6
  )
  fixed = _path("paramax.NonTrainable")
  params, rest = eqx.partition(
    net, eqx.is_inexact_array, is_leaf=lambda x: isinstance(x, fixed)
  )

  def apply(params: PyTree, x: jax.Array) -> jax.Array:
    return _path("paramax.unwrap")(eqx.combine(params, rest)).log_prob(x)

  return _of(apply, params, FLOATS)


@_model("jraph", "GraphNetwork, twice")
def _graph_network() -> Case:
  def fn(nodes: jax.Array) -> Any:
    graph = jraph.GraphsTuple(
      nodes,
      FLOATS[:, :2],
      RECEIVERS,
      SENDERS,
      jnp.ones((1, 3)),
      jnp.array([4]),
      jnp.array([4]),
    )
    mlp = lambda *x: hk.nets.MLP([6, 5])(jnp.concatenate(x, -1))
    step = lambda graph: jraph.GraphNetwork(mlp, mlp, mlp)(graph)
    return step(step(graph))

  return _haiku(fn, FLOATS)


@_model("jraph", "GAT, twice")
def _graph_attention() -> Case:
  def fn(nodes: jax.Array) -> jax.Array:
    graph = jraph.GraphsTuple(
      nodes, None, RECEIVERS, SENDERS, None, jnp.array([4]), jnp.array([4])
    )
    logit = lambda sent, received, _: hk.Linear(1)(
      jnp.concatenate([sent, received], -1)
    )
    step = lambda graph: jraph.GAT(hk.Linear(6), logit)(graph)
    return step(step(graph)).nodes

  return _haiku(fn, FLOATS)


@_model("diffrax", "neural ODE, diffeqsolve")
def _neural_ode() -> Case:
  def solve(net: Any, y: jax.Array) -> jax.Array:
    term = dfx.ODETerm(lambda t, y, net: net(y))
    return dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, 1.0, 0.25, y, args=net).ys

  return _eqx(eqx.nn.MLP(5, 5, 7, 2, key=KEY), FLOATS, call=solve)


@_model("distrax", "MaskedCoupling, twice")
def _real_nvp() -> Case:
  def fn(x: jax.Array) -> jax.Array:
    affine = lambda p: distrax.ScalarAffine(p[..., 0], log_scale=p[..., 1])
    couplings = [
      distrax.MaskedCoupling(
        jnp.arange(5) % 2 == parity,
        hk.Sequential([hk.nets.MLP([6, 10]), hk.Reshape((5, 2))]),
        affine,
      )
      for parity in (0, 1)
    ]
    base = distrax.MultivariateNormalDiag(jnp.zeros(5), jnp.ones(5))
    return distrax.Transformed(base, distrax.Chain(couplings)).log_prob(x)

  return _haiku(fn, FLOATS)


@_model("jax", "example_libraries.stax")
def _stax() -> Case:
  stax = _Package("jax.example_libraries.stax")
  init, apply = stax.serial(
    stax.Dense(6), stax.Relu, stax.Dense(5), stax.Tanh, stax.Dense(2)
  )
  return _of(apply, init(KEY, (4, 5))[1], FLOATS)


@_model("brax", "PPO: policy and value")
def _ppo() -> Case:
  nets = _path("brax.training.agents.ppo.networks.make_ppo_networks")(
    5, 2, policy_hidden_layer_sizes=(6, 6), value_hidden_layer_sizes=(7, 6)
  )
  both = {"policy": nets.policy_network, "value": nets.value_network}
  params = {name: net.init(KEY) for name, net in both.items()}
  return _of(
    lambda p, x: [net.apply(None, p[name], x) for name, net in both.items()],
    params,
    FLOATS,
  )


@_model("penzai", "simple_mlp.MLP")
def _penzai() -> Case:
  pz = _Package("penzai.pz")
  net = _path("penzai.models.simple_mlp.MLP").from_config(KEY, [5, 6, 4, 2])
  net, variables = pz.unbind_params(net, freeze=True)

  def apply(variables: PyTree, x: jax.Array) -> jax.Array:
    named = pz.nx.wrap(x).tag("batch", "features")
    return pz.bind_variables(net, variables)(named).unwrap("batch", "features")

  return _of(apply, variables, FLOATS)


_enter_transformers()
_enter_single()


@_model("NetKet", "ARNNDense")  # The last: netket turns on 64 bits.
def _arnn() -> Case:
  hilbert = _path("netket.hilbert.Spin")(0.5, 5)
  return _linen(
    _path("netket.models.ARNNDense")(hilbert, 3, 6, param_dtype=jnp.float32),
    FLOATS,
  )
