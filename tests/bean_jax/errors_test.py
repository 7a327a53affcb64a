"""Bad input: what is refused, when, and what the message says."""

from collections import OrderedDict
import functools

from flax.core import FrozenDict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.layers import draw_layer

HIDDEN, KERNEL = draw_layer(6, 5, 4)
NAN, INF = float("nan"), float("inf")


def _regularized(hidden, kernels, *, where=None, **options):
  """Returns the loss of a network which is nothing but these layers."""
  regularized_fn = bean_jax.regularize(
    lambda kernels: (jnp.float32(0), hidden),
    lambda kernels, hidden: (hidden, kernels),
    where_fn=None if where is None else lambda kernels: where,
    **{"alpha": 1.0, **options},
  )
  return regularized_fn(kernels)[0]


FUNCTIONS = {
  "layer_penalty": lambda **options: bean_jax.layer_penalty(
    HIDDEN, KERNEL, **options
  ),
  "bean_penalty": lambda **options: bean_jax.bean_penalty(
    {"fc1": HIDDEN}, {"fc1": KERNEL}, **options
  ),
  "regularize": lambda **options: _regularized(
    {"fc1": HIDDEN}, {"fc1": KERNEL}, **options
  ),
  "neuron_correlation": lambda **options: bean_jax.neuron_correlation(
    KERNEL, **options
  ),
  "coactivation_divergence": lambda **options: bean_jax.coactivation_divergence(
    HIDDEN, **options
  ),
}
PENALTIES = ("layer_penalty", "bean_penalty", "regularize")
TAKES = {
  "order": (*PENALTIES, "neuron_correlation"),
  "gamma": (*PENALTIES, "neuron_correlation"),
  "alpha": PENALTIES[1:],
  "distance": (*PENALTIES, "coactivation_divergence"),
  "where": (*PENALTIES, "coactivation_divergence"),
}
SMALL = (-1, -0.5, NAN, INF, -np.float32(2), np.float64("nan"), np.int32(-3))
SMALL += (np.array(-1.0), jnp.float32("nan"), jnp.asarray(-2, jnp.bfloat16))
STRENGTHS = (
  *((value, ValueError, [value]) for value in SMALL),
  *((value, TypeError, []) for value in ("1", {}, None)),
  *((value, ValueError, []) for value in (np.ones(3), 1j)),
)
WRONG = {
  "order": (
    *((value, ValueError, [value, 1]) for value in (0, 3, -1)),
    *((v, TypeError, [repr(v), 1]) for v in (1.5, 1.0, True, "1", None)),
  ),
  "distance": tuple(
    (value, ValueError, ["squared", "absolute", repr(value)])
    for value in ("cosine", "Squared", "", None, 2)
  ),
  "gamma": STRENGTHS,
  "alpha": STRENGTHS,
  "where": (
    (np.ones(5, bool), ValueError, ["[6]", "[5]"]),
    (np.ones((6, 2), bool), ValueError, ["[6, 2]"]),
    (np.bool_(True), ValueError, ["[6]", "[]"]),
    (np.ones(6, np.float32), TypeError, ["bool", "float32"]),
    (np.ones(6, np.int32), TypeError, ["bool", "int32"]),
  ),
}


def _refuses(function, *parts, error):
  """Asserts that each part, any case, is in the message of the error."""
  with pytest.raises(error) as caught:
    function()
  message = str(caught.value)
  for part in parts:
    assert str(part).lower() in message.lower(), (part, message)
  assert "\n" not in message
  return message


@pytest.mark.parametrize(
  "option, function", [(o, f) for o, names in TAKES.items() for f in names]
)
def test_options(option, function):
  call = FUNCTIONS[function]
  for value, error, parts in WRONG[option]:
    _refuses(
      lambda value=value: call(**{option: value}), option, *parts, error=error
    )


@pytest.mark.parametrize("function", TAKES["order"])
def test_what_is_static_is_refused_while_tracing(function):
  call = FUNCTIONS[function]
  _refuses(
    lambda: jax.jit(lambda order: call(order=order))(1),
    "order",
    error=TypeError,
  )
  _refuses(
    lambda: jax.eval_shape(lambda: call(gamma=-1.0)), "gamma", error=ValueError
  )


BAD_LAYERS = {
  "activations of rank 1": (HIDDEN[0], KERNEL, ["activations", "[5]"]),
  "activations of rank 0": (np.float32(1), KERNEL, ["activations", "[]"]),
  "kernel of rank 1": (HIDDEN, KERNEL[:, 0], ["kernel", "[N, M]", "[5]"]),
  "kernel of rank 3": (HIDDEN, KERNEL[None], ["kernel", "[1, 5, 4]"]),
  "transposed kernel": (HIDDEN, KERNEL.T, ["[6, 5]", "[4, 5]"]),
  "kernel of the layer before": (HIDDEN, KERNEL[:3], ["[6, 5]", "[3, 4]"]),
  "activations of integers": (HIDDEN.astype(int), KERNEL, ["int"]),
  "kernel of integers": (HIDDEN, KERNEL.astype(np.int8), ["kernel", "int8"]),
  "boolean activations": (HIDDEN > 0, KERNEL, ["activations", "bool"]),
  "complex kernel": (HIDDEN, KERNEL + 1j, ["kernel", "complex"]),
  "activations of text": ("hidden", KERNEL, ["activations", "str"]),
  "no neurons": (HIDDEN[:, :0], KERNEL[:0], ["[6, 0]"]),
  "no next neurons": (HIDDEN, KERNEL[:, :0], ["kernel", "[5, 0]"]),
}


@pytest.mark.parametrize("case", BAD_LAYERS)
def test_shape_and_dtype_of_a_layer(case):
  activations, kernel, parts = BAD_LAYERS[case]
  inputs = {"fc1": HIDDEN, "head": {"fc2": activations}}
  kernels = {"fc1": KERNEL, "head": {"fc2": kernel}}
  error = (TypeError, ValueError)
  for function in (bean_jax.bean_penalty, _regularized):
    _refuses(
      lambda function=function: function(inputs, kernels),
      "layer ['head']['fc2']",
      *parts,
      error=error,
    )
  _refuses(
    lambda: bean_jax.layer_penalty(activations, kernel), *parts, error=error
  )
  if not isinstance(activations, str):
    layer_penalty = functools.partial(jax.eval_shape, bean_jax.layer_penalty)
    _refuses(lambda: layer_penalty(activations, kernel), *parts, error=error)
  # A part sees one of the two arrays.
  if parts[0] == "activations":
    call = functools.partial(bean_jax.coactivation_divergence, activations)
    _refuses(call, *parts, error=error)
  elif parts[0] == "kernel":
    call = functools.partial(bean_jax.neuron_correlation, kernel)
    _refuses(call, *parts, error=error)


H, K = {"fc1": HIDDEN}, {"fc1": KERNEL}
UNEQUAL = {
  "a missing kernel": ({**H, "fc2": HIDDEN}, K, "fc2"),
  "another name": ({"fc2": HIDDEN}, K, "fc2"),
  "another nesting": ({"fc2": {"in": HIDDEN}}, {"fc2": KERNEL}, "fc2"),
  "a list and a dict": ([HIDDEN], {"fc2": KERNEL}, "0"),
  "no activations": ({}, {"fc2": KERNEL}, "fc2"),
  "nothing": ({}, {}, "empty"),
  "None": (None, None, "empty"),
  "a layer of None": ({**H, "fc2": None}, K, "'fc2': None"),
  "dict, FrozenDict": (H, FrozenDict(K), "FrozenDict"),
  "list, tuple": ([HIDDEN], (KERNEL,), "other containers"),
  "OrderedDict, dict": (OrderedDict(H), K, "OrderedDict"),
  "FrozenDict, dict": ({"head": FrozenDict(H)}, {"head": K}, "FrozenDict"),
}


@pytest.mark.parametrize("case", UNEQUAL)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_unequal_trees(function, case):
  activations, kernels, part = UNEQUAL[case]
  call = functools.partial(function, activations, kernels)
  _refuses(call, "activations", "kernels", part, error=ValueError)


@pytest.mark.parametrize(
  "alpha", ({"fc1": 1.0}, {"fc1": 1.0, "fc3": 1.0}, [1.0, 1.0]), ids=str
)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_alpha_of_other_layers(function, alpha):
  trees = {**H, "fc2": HIDDEN}, {**K, "fc2": KERNEL}
  call = functools.partial(function, *trees, alpha=alpha)
  _refuses(call, "alpha", "fc2", error=ValueError)


@pytest.mark.parametrize(
  "result, error, parts",
  (
    *(
      (result, TypeError, ["loss_fn", "(loss, aux)"])
      for result in (1.0, (1.0,), (1.0, {}, {}), None)
    ),
    ((jnp.ones(7), {"fc1": HIDDEN}), ValueError, ["scalar", "[7]"]),
  ),
  ids=str,
)
def test_results_of_the_loss(result, error, parts):
  regularized_fn = bean_jax.regularize(
    lambda params: result, lambda params, aux: ({}, {}), alpha=1.0
  )
  _refuses(lambda: regularized_fn({}), *parts, error=error)
