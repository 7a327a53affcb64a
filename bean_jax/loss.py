"""BEAN as a transformation of a loss function."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import _checks, _dense, _layout, _rows, _tracing, penalty
from bean_jax._dense import Layers
from bean_jax._layout import Layout

PyTree = Any
_Alpha = ArrayLike | Mapping[str, ArrayLike] | Callable[[str], ArrayLike]


def regularize(
  loss_fn: Callable[..., Any],
  layers_fn: Callable[[PyTree, Any], tuple[PyTree, PyTree]] | None = None,
  *,
  alpha: ArrayLike | PyTree | Callable[[str], ArrayLike],
  layers: Layers = None,
  order: int = 1,
  gamma: ArrayLike = 1.0,
  distance: str = "squared",
  where_fn: Callable[..., ArrayLike] | None = None,
  samples: int | None = None,
  convolutions: bool = False,
) -> Callable[..., Any]:
  r"""Adds the BEAN penalty of a network's dense layers to its loss.

  .. math::
    L = L_{DNN} + \sum_l \alpha_l\, L_c^{(l)}

  The dense layers are found in what `loss_fn` computes, whichever library its
  model is written in: the matrix products of neurons, that is, of what depends
  on data and on parameters, with a parameter. `find_layers` shows them.

  The result has the signature of `loss_fn` and returns what that does, so that
  `jax.value_and_grad`, optimizers that evaluate the loss themselves, gradient
  accumulation, and `jax.vmap` over seeds and strengths go on as before. BEAN is
  no gradient transformation: its gradient flows through the activations, which
  an optimizer's update never sees.

  Args:
    loss_fn: Function of `(params, *args, **kwargs)` that returns a scalar, or
      (scalar, aux). Parameters are found in its first argument alone.
    layers_fn: Function of (params, aux) that returns (activations, kernels),
      two trees of the same structure, as `bean_penalty` takes them. By default
      the layers are found.
    alpha: Strength, a scalar, which may be traced; or a function of a layer's
      path; or a dict of scalars by path or pattern. With `layers_fn` a scalar
      or a tree with a scalar a layer. A layer whose alpha is the Python number
      0 is not computed.
    layers: Which layers to take: a path as `find_layers` shows it; a pattern,
      in which "*" is any text; a collection of these, of which those after a
      "!" are left out; or a function of the path. Layers of raw data are taken
      by their path alone. By default all others.
    order: 1 (BEAN-1) or 2 (BEAN-2), static.
    gamma: Slope in A, a scalar in units of 1 / weight; may be traced.
    distance: "squared" or "absolute", static.
    where_fn: Function of what `loss_fn` takes that returns a boolean mask of
      the real samples, which fits the first axes of each layer's batch. All are
      real by default.
    samples: How many rows of each layer's batch to look at, at most; evenly
      spaced. All by default.
    convolutions: Whether to take convolutions too: incoming channels as
      neurons, positions as samples, taps and outgoing channels as the next.

  Returns:
    A function of `(params, *args, **kwargs)` that returns what `loss_fn` does,
    the loss in its own dtype, or in that of the penalty if it is no float.

  Raises:
    TypeError: While tracing, if `loss_fn` returns no scalar or pair, or an
      option has the wrong type.
    ValueError: While tracing, if there is no layer to take or one cannot be
      had; if the loss is no scalar; and as `bean_penalty`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, inputs):
    ...   hidden = jax.nn.relu(inputs @ params["fc1"])
    ...   return jnp.mean(hidden @ params["fc2"])
    >>> params = {"fc1": jnp.eye(2), "fc2": jnp.full((2, 1), jnp.arctanh(0.5))}
    >>> inputs = jnp.array([[0.0, 2.0]])
    >>> bean_loss_fn = regularize(loss_fn, alpha=1.0)
    >>> print(bean_loss_fn(params, inputs) - loss_fn(params, inputs))
    0.5

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 2.1, "Model Training".
  """
  options = _Options(
    layers, order, gamma, distance, where_fn, samples, convolutions
  )
  if layers_fn is not None:
    return _regularized_by_hand(loss_fn, layers_fn, alpha, options)

  @functools.wraps(loss_fn)
  def regularized_fn(*args: Any, **kwargs: Any) -> Any:
    result, terms, alphas = _penalties(loss_fn, args, kwargs, alpha, options)
    values = list(terms.values())
    total = penalty.weighted_sum(alphas, values) if terms else 0
    return _with_penalty(result, total)

  return regularized_fn


def penalties(
  loss_fn: Callable[..., Any],
  *,
  layers: Layers = None,
  order: int = 1,
  gamma: ArrayLike = 1.0,
  distance: str = "squared",
  where_fn: Callable[..., ArrayLike] | None = None,
  samples: int | None = None,
  convolutions: bool = False,
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  r"""Makes a loss function that also returns the BEAN penalty of each layer.

  Their weighted sum is what `regularize` adds, so that a training step which
  logs them computes nothing twice:

  .. math::
    \left(L_{DNN}, \{l: L_c^{(l)}\}\right)

  Args:
    loss_fn: As in `regularize`.
    layers: As in `regularize`, as are all that follow.
    order: 1 (BEAN-1) or 2 (BEAN-2), static.
    gamma: Slope in A, a scalar in units of 1 / weight; may be traced.
    distance: "squared" or "absolute", static.
    where_fn: Function of what `loss_fn` takes, that returns a mask of samples.
    samples: How many rows of each layer's batch to look at, at most.
    convolutions: Whether to take convolutions too.

  Returns:
    A function of `(params, *args, **kwargs)` that returns what `loss_fn` does,
    and a dict {path: penalty}, as (result, penalties).

  Raises:
    TypeError: As `regularize`.
    ValueError: As `regularize`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, inputs):
    ...   hidden = jax.nn.relu(inputs @ params["fc1"])
    ...   return jnp.mean(hidden @ params["fc2"])
    >>> def bean_loss_fn(params, inputs):
    ...   loss, by_layer = penalties(loss_fn)(params, inputs)
    ...   return loss + 10.0 * sum(by_layer.values()), by_layer
    >>> params = {"fc1": jnp.eye(2), "fc2": jnp.full((2, 1), jnp.arctanh(0.5))}
    >>> (loss, by_layer), gradients = jax.value_and_grad(
    ...   bean_loss_fn, has_aux=True
    ... )(params, jnp.array([[0.0, 2.0]]))
    >>> print({path: float(value) for path, value in by_layer.items()})
    {'fc2': 0.5}

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Eq. 1.
  """
  options = _Options(
    layers, order, gamma, distance, where_fn, samples, convolutions
  )

  @functools.wraps(loss_fn)
  def penalties_fn(*args: Any, **kwargs: Any) -> Any:
    return _penalties(loss_fn, args, kwargs, 1.0, options)[:2]

  return penalties_fn


class _Options(NamedTuple):
  """What is penalized, and how; see `regularize`."""

  layers: Layers
  order: int
  gamma: ArrayLike
  distance: str
  where_fn: Callable[..., ArrayLike] | None
  samples: int | None
  convolutions: bool

  def mask(self, *args: Any, **kwargs: Any) -> ArrayLike | None:
    """Returns which samples of a call are real; None if all are."""
    if self.where_fn is None:
      return None
    where = self.where_fn(*args, **kwargs)
    if where is None:
      raise TypeError(
        "where_fn must return a boolean mask of the real samples, got None"
      )
    return where


def _regularized_by_hand(
  loss_fn: Callable[..., Any],
  layers_fn: Callable[[PyTree, Any], tuple[PyTree, PyTree]],
  alpha: ArrayLike | PyTree,
  options: _Options,
) -> Callable[..., Any]:
  """Makes the regularized loss of layers that the user names."""
  of_found = options.layers is not None or options.samples is not None
  if of_found or options.convolutions:
    raise TypeError(
      "layers, samples and convolutions are about layers that are found; with "
      "layers_fn, choose layers and rows there"
    )

  @functools.wraps(loss_fn)
  def regularized_fn(params: PyTree, *args: Any, **kwargs: Any) -> Any:
    result = _checked(loss_fn(params, *args, **kwargs))
    if not isinstance(result, tuple) or len(result) != 2:
      raise TypeError(
        "with layers_fn, loss_fn must return (loss, aux), where aux holds the "
        f"inputs of the dense layers, got {type(result).__name__}"
      )
    term = penalty.bean_penalty(
      *layers_fn(params, result[1]),
      alpha=alpha,
      order=options.order,
      gamma=options.gamma,
      distance=options.distance,
      where=options.mask(params, *args, **kwargs),
    )
    return _with_penalty(result, term)

  return regularized_fn


def _checked(result: Any) -> Any:
  """Returns what a loss function returned, if it is a loss or (loss, aux)."""
  pair = isinstance(result, tuple)
  loss = result[0] if pair and len(result) == 2 else result
  if not jax.tree_util.all_leaves([loss]):
    got = f"a tuple of {len(result)}" if pair else type(loss).__name__
    raise TypeError(
      f"loss_fn must return a scalar loss or (loss, aux), got {got}"
    )
  if jnp.ndim(loss) != 0:
    raise ValueError(
      f"loss_fn must return a scalar loss, got shape {list(jnp.shape(loss))}; "
      "take the mean over samples first"
    )
  return result


def _with_penalty(result: Any, term: jax.Array | int) -> Any:
  """Returns loss plus penalty, in the form of `result`."""
  pair = isinstance(result, tuple)
  loss = jnp.asarray(result[0] if pair else result)
  term = jnp.asarray(term)
  if jnp.issubdtype(loss.dtype, jnp.inexact):
    term = term.astype(loss.dtype)
  loss = loss.astype(term.dtype) + term
  return (loss, result[1]) if pair else loss


def _penalties(
  loss_fn: Callable[..., Any],
  args: Sequence[Any],
  kwargs: Mapping[str, Any],
  alpha: _Alpha,
  options: _Options,
) -> tuple[Any, dict[str, jax.Array], list[ArrayLike]]:
  """Returns what a call returns, penalties by layer, and their strengths."""
  order = _checks.order_of_correlation(options.order)
  gamma = jnp.asarray(_checks.nonnegative_scalar("gamma", options.gamma))
  distance = _checks.known_distance(options.distance)
  samples = _checks.count_or_none("samples", options.samples)
  fn, args = _tracing.of_params(loss_fn, args)
  traced = _tracing.trace(lambda *a, **k: _checked(fn(*a, **k)), args, kwargs)
  found, groups = _dense.choose(
    traced, options.layers, of_loss=True, convolutions=options.convolutions
  )
  paths = [layer.path for layer in found if not layer.left_out]
  alphas = _alphas(alpha, paths)
  groups = [g for g in groups if not alphas.keys().isdisjoint(g.paths)]
  where = options.mask(*args, **kwargs)

  of_call = functools.partial(
    _measured, order=order, distance=distance, samples=samples
  )

  def measure(name: str, layout: Layout, *operands: jax.Array) -> Any:
    batch, name = layout.batch(*operands), f"layer {name!r}"
    mask = _checks.sample_mask(where, batch, name=name)
    return of_call(*operands, gamma, mask, layout=layout)

  result, calls = _dense.measured(traced, groups, measure)
  terms = {path: _mean_over_samples(calls[path]) for path in alphas}
  return result, terms, list(alphas.values())


# Calls of one layout are traced, and differentiated, once: by itself, each took
# as long as a few layers of the model.
@functools.partial(
  jax.jit, static_argnames=("layout", "order", "distance", "samples")
)
def _measured(
  left: jax.Array,
  right: jax.Array,
  gamma: jax.Array,
  where: jax.Array | None,
  *,
  layout: Layout,
  order: int,
  distance: str,
  samples: int | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the penalty of a call, and how many samples it has."""

  def of_one(
    activations: jax.Array,
    kernel: jax.Array,
    gamma: jax.Array,
    where: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    *batch, num_neurons = activations.shape
    rows = activations.reshape(-1, num_neurons)
    mask = None if where is None else _rows.mask_of_rows(where, tuple(batch))
    stands_for = 1.0  # Rows of the batch.
    if samples is not None:
      taken = _rows.evenly_spaced(rows.shape[0], samples)
      stands_for = rows.shape[0] / len(taken)
      rows = rows[taken]
      mask = None if mask is None else mask[taken]
    value = penalty.of_arrays(
      rows,
      kernel,
      gamma,
      mask,
      order=order,
      distance=distance,
      transposed=layout.transposed,
    )
    count = rows.shape[0] if mask is None else jnp.sum(mask)
    return value, stands_for * jnp.asarray(count, value.dtype)

  return _layout.of_stack(of_one, layout, (left, right), gamma, where)


def _mean_over_samples(
  calls: Sequence[tuple[jax.Array, jax.Array]],
) -> jax.Array:
  """Returns the mean penalty of calls with so many samples each."""
  if len(calls) == 1 and calls[0][0].ndim == 0:
    return calls[0][0]
  means, counts = (
    jnp.concatenate([jnp.ravel(call[place]) for call in calls])
    for place in (0, 1)
  )
  return jnp.sum(means * (counts / jnp.maximum(jnp.sum(counts), 1)))


def _alphas(alpha: _Alpha, paths: Sequence[str]) -> dict[str, ArrayLike]:
  """Returns the strength of each layer, but for those that are off."""
  if isinstance(alpha, Mapping):
    patterns = {
      path: [p for p in alpha if _dense.matches(p, path)] for path in paths
    }
    without = [path for path, found in patterns.items() if not found]
    used = {found[0] for found in patterns.values() if found}
    if without or used != set(alpha):
      raise ValueError(
        "alpha must have a value for each layer that is taken, and no other; "
        f"without one are {without}, and without a layer "
        f"{sorted(set(alpha) - used)}; the layers are {list(paths)}"
      )
    values = {path: alpha[found[0]] for path, found in patterns.items()}
  elif callable(alpha):
    values = {path: alpha(path) for path in paths}
  else:
    values = dict.fromkeys(paths, alpha)
  checked = {
    path: _checks.nonnegative_scalar(f"alpha of layer {path!r}", value)
    for path, value in values.items()
  }
  return {p: a for p, a in checked.items() if not penalty.is_off(a)}
