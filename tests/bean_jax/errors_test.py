"""Bad input: what is refused, when, and what the message says."""

from collections import OrderedDict

from flax.core import FrozenDict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.layers import draw_layer

REFUSED = (TypeError, ValueError)
HIDDEN, KERNEL = draw_layer(6, 5, 4)
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
}


def _regularized(hidden, kernels, *, where=None, **options):
  """Returns the loss of a network which is nothing but these layers."""
  regularized_fn = bean_jax.regularize(
    lambda kernels: (jnp.float32(0), hidden),
    lambda kernels, hidden: (hidden, kernels),
    where_fn=None if where is None else lambda kernels: where,
    **{"alpha": 1.0, **options},
  )
  return regularized_fn(kernels)[0]


def _refuses(function, *parts, error=REFUSED):
  """Asserts that each part, any case, is in the message of the error."""
  with pytest.raises(error) as caught:
    function()
  message = str(caught.value)
  for part in parts:
    assert str(part).lower() in message.lower(), (part, message)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("order", (0, 3, -1, 1.5, 1.0, True, "1", None))
def test_order(function, order):
  error = ValueError if order in (0, 3, -1) else REFUSED
  call = FUNCTIONS[function]
  _refuses(lambda: call(order=order), "order", repr(order), "1", error=error)


def test_order_of_correlation():
  for order in (0, 3, 1.5, True):
    _refuses(
      lambda order=order: bean_jax.neuron_correlation(KERNEL, order=order),
      "order",
      repr(order),
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_traced_order(function):
  call = FUNCTIONS[function]
  _refuses(lambda: jax.jit(lambda order: call(order=order))(1), "order")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("distance", ("cosine", "Squared", "", None, 2))
def test_distance(function, distance):
  call = FUNCTIONS[function]
  _refuses(
    lambda: call(distance=distance),
    "distance",
    "squared",
    "absolute",
    repr(distance),
  )


def test_distance_of_divergence():
  _refuses(
    lambda: bean_jax.coactivation_divergence(HIDDEN, distance="l2"),
    "distance",
    "squared",
    "'l2'",
    error=ValueError,
  )


NOT_A_STRENGTH = (
  -1,
  -0.5,
  float("nan"),
  float("inf"),
  -np.float32(2),
  np.float64("nan"),
  np.int32(-3),
  np.array(-1.0),
  jnp.float32("nan"),
  jnp.asarray(-2, jnp.bfloat16),
)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gamma", NOT_A_STRENGTH)
def test_gamma(function, gamma):
  call = FUNCTIONS[function]
  _refuses(lambda: call(gamma=gamma), "gamma", gamma, error=ValueError)


@pytest.mark.parametrize("gamma", NOT_A_STRENGTH)
def test_gamma_of_correlation(gamma):
  _refuses(
    lambda: bean_jax.neuron_correlation(KERNEL, gamma=gamma),
    "gamma",
    error=ValueError,
  )


@pytest.mark.parametrize("function", ("bean_penalty", "regularize"))
@pytest.mark.parametrize("alpha", NOT_A_STRENGTH)
def test_alpha(function, alpha):
  call = FUNCTIONS[function]
  _refuses(lambda: call(alpha=alpha), "alpha", alpha, error=ValueError)
  _refuses(
    lambda: call(alpha={"fc1": alpha}),
    "alpha",
    "['fc1']",
    alpha,
    error=ValueError,
  )


@pytest.mark.parametrize("function", ("bean_penalty", "regularize"))
@pytest.mark.parametrize("name", ("alpha", "gamma"))
@pytest.mark.parametrize("value", ("1", np.ones(3), 1j, {}), ids=str)
def test_strength_is_one_number(function, name, value):
  call = FUNCTIONS[function]
  _refuses(lambda: call(**{name: value}), name)


def test_strength_is_refused_while_tracing():
  _refuses(
    lambda: jax.eval_shape(
      lambda h: bean_jax.bean_penalty([h], [KERNEL], alpha=-1.0), HIDDEN
    ),
    "alpha",
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
  _refuses(lambda: bean_jax.layer_penalty(activations, kernel), *parts)


@pytest.mark.parametrize("case", BAD_LAYERS)
def test_shape_and_dtype_name_the_layer(case):
  activations, kernel, parts = BAD_LAYERS[case]
  hidden = {"fc1": HIDDEN, "head": {"fc2": activations}}
  kernels = {"fc1": KERNEL, "head": {"fc2": kernel}}
  for function in (bean_jax.bean_penalty, _regularized):
    _refuses(
      lambda function=function: function(hidden, kernels),
      "layer ['head']['fc2']",
      *parts,
    )


@pytest.mark.parametrize("case", ("activations of rank 1", "transposed kernel"))
def test_shapes_are_refused_while_tracing(case):
  activations, kernel, parts = BAD_LAYERS[case]
  _refuses(
    lambda: jax.eval_shape(bean_jax.layer_penalty, activations, kernel), *parts
  )


def test_parts_refuse_too():
  for activations in (HIDDEN[0], HIDDEN.astype(int)):
    _refuses(
      lambda x=activations: bean_jax.coactivation_divergence(x), "activations"
    )
  for kernel in (KERNEL[0], KERNEL[None], KERNEL.astype(int)):
    _refuses(lambda x=kernel: bean_jax.neuron_correlation(x), "kernel")


@pytest.mark.parametrize(
  "where,parts",
  (
    (np.ones(5, bool), ["[6]", "[5]"]),
    (np.ones((6, 1), bool), ["[6, 1]"]),
    (np.bool_(True), ["[6]", "[]"]),
    (np.ones(6, np.float32), ["bool", "float32"]),
    (np.ones(6, np.int32), ["bool", "int32"]),
  ),
  ids=str,
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_mask(function, where, parts):
  call = FUNCTIONS[function]
  _refuses(lambda: call(where=where), "where", *parts)


def test_mask_of_divergence():
  _refuses(
    lambda: bean_jax.coactivation_divergence(HIDDEN, where=np.ones(5, bool)),
    "where",
    "[6]",
    "[5]",
  )


UNEQUAL = {
  "a missing kernel": ({"fc1": HIDDEN, "fc2": HIDDEN}, {"fc1": KERNEL}),
  "another name": ({"fc2": HIDDEN}, {"fc1": KERNEL}),
  "another nesting": ({"fc2": {"in": HIDDEN}}, {"fc2": KERNEL}),
  "a list and a dict": ([HIDDEN], {"fc2": KERNEL}),
  "no activations": ({}, {"fc2": KERNEL}),
}


@pytest.mark.parametrize("case", UNEQUAL)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_unequal_trees(function, case):
  activations, kernels = UNEQUAL[case]
  layer = "0" if case == "a list and a dict" else "fc2"
  _refuses(
    lambda: function(activations, kernels),
    "activations",
    "kernels",
    layer,
    error=ValueError,
  )


OTHER_CONTAINERS = {
  "dict, FrozenDict": ({"fc1": HIDDEN}, FrozenDict({"fc1": KERNEL})),
  "list, tuple": ([HIDDEN], (KERNEL,)),
  "OrderedDict, dict": (OrderedDict(fc1=HIDDEN), {"fc1": KERNEL}),
  "FrozenDict, dict": (
    {"head": FrozenDict({"fc1": HIDDEN})},
    {"head": {"fc1": KERNEL}},
  ),
}


@pytest.mark.parametrize("case", OTHER_CONTAINERS)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_trees_of_other_containers(function, case):
  ours, theirs = case.split(", ")
  message = _refuses(
    lambda: function(*OTHER_CONTAINERS[case]),
    f"where activations has a {ours}, kernels has a {theirs}",
    error=ValueError,
  )
  assert "[]" not in message


def test_a_layer_of_none_is_named_by_the_structures():
  _refuses(
    lambda: bean_jax.bean_penalty(
      {"fc1": HIDDEN, "fc2": None}, {"fc1": KERNEL}
    ),
    "'fc2': None",
    error=ValueError,
  )


@pytest.mark.parametrize(
  "alpha", ({"fc1": 1.0}, {"fc1": 1.0, "fc3": 1.0}, [1.0, 1.0]), ids=str
)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_alpha_of_other_layers(function, alpha):
  activations = {"fc1": HIDDEN, "fc2": HIDDEN}
  kernels = {"fc1": KERNEL, "fc2": KERNEL}
  _refuses(
    lambda: function(activations, kernels, alpha=alpha),
    "alpha",
    "fc2",
    error=ValueError,
  )


@pytest.mark.parametrize("empty", ({}, [], (), None), ids=str)
@pytest.mark.parametrize("function", (bean_jax.bean_penalty, _regularized))
def test_empty_trees(function, empty):
  _refuses(lambda: function(empty, empty), "empty", error=ValueError)


@pytest.mark.parametrize(
  "result",
  (jnp.float32(1), (jnp.float32(1),), (jnp.float32(1), {}, {}), None),
  ids=str,
)
def test_loss_without_aux(result):
  regularized_fn = bean_jax.regularize(
    lambda params: result, lambda params, aux: ({}, {}), alpha=1.0
  )
  _refuses(lambda: regularized_fn({}), "loss_fn", "(loss, aux)")


def test_loss_of_each_sample():
  regularized_fn = bean_jax.regularize(
    lambda params: (jnp.ones(7), {"fc1": HIDDEN}),
    lambda params, aux: (aux, {"fc1": KERNEL}),
    alpha=1.0,
  )
  _refuses(lambda: regularized_fn({}), "scalar", "[7]")
