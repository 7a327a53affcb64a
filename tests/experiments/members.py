"""Members that tests train, and how they are compared."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments.population import program


def keys_of(*seeds):
  return jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))


def pick(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    expected,
  )


def assert_close_by_leaf(actual, expected, tolerance):
  """Compares leaf by leaf, relative to the largest number of a leaf."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for got, wanted in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    atol = tolerance * np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def train(
  learner,
  stream,
  data,
  validation,
  *,
  seeds,
  hparams,
  laps,
  first=0,
  active=None,
):
  """Trains in calls of so many laps; carries and joined curves [laps, n]."""
  keys = keys_of(*seeds)
  carry = program.make(learner, stream, laps[0]).init(keys, hparams, data)
  carries, curves = [jax.device_get(carry)], []
  for number in laps:
    programs = program.make(learner, stream, number)
    carry, metrics = programs.run(
      carry,
      np.int32(first),
      keys,
      hparams,
      np.ones(len(seeds), bool) if active is None else np.array(active),
      programs.prepare(data),
      validation,
    )
    first += number
    carries.append(jax.device_get(carry))
    curves.append(jax.device_get(metrics))
  return carries, jax.tree.map(lambda *leaves: np.concatenate(leaves), *curves)


def train_pair(learner, hparams, samples, num_laps=None):
  """Trains a member and its like of other hyper-parameters on shared samples.

  Returns states, the first one included, and reports, by lap.
  """
  keys = keys_of(3, 3)
  run = jax.jit(jax.vmap(learner.lap, (0, None, 0, 0, None)))
  states = [jax.vmap(learner.init, (0, 0, None))(keys, hparams, samples)]
  reports = []
  for lap in range(num_laps or learner.num_laps):
    state, report = run(states[-1], jnp.int32(lap), keys, hparams, samples)
    states.append(state)
    reports.append(report)
  return states, reports


def adam_by_hand(
  grads_fn, params, *, rate, decay=0.0, decoupled=False, nonnegative=False
):
  """Three steps of torch.optim.Adam(weight_decay=decay), or of AdamW.

  In float64; kernels may be projected to 0 or above.
  """
  params = traverse_util.flatten_dict(jax.tree.map(np.float64, params))
  means = squares = dict.fromkeys(params, 0.0)
  for step in range(1, 4):
    tree = {path: np.float32(value) for path, value in params.items()}
    grads = grads_fn(traverse_util.unflatten_dict(tree))
    grads = traverse_util.flatten_dict(jax.tree.map(np.float64, grads))
    if decoupled:
      params = {k: (1 - rate * decay) * value for k, value in params.items()}
    else:
      grads = {k: grad + decay * params[k] for k, grad in grads.items()}
    means = {k: 0.9 * means[k] + 0.1 * g for k, g in grads.items()}
    squares = {k: 0.999 * squares[k] + 0.001 * g**2 for k, g in grads.items()}
    for path in params:
      root = np.sqrt(squares[path] / (1 - 0.999**step))
      moved = params[path] - rate * means[path] / (1 - 0.9**step) / (
        root + 1e-8
      )
      is_kernel = nonnegative and path[-1] == "kernel"
      params[path] = np.maximum(moved, 0) if is_kernel else moved
  return traverse_util.unflatten_dict(params)
