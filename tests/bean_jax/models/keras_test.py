"""A model of Keras on JAX, where Keras is installed."""

import os

import jax
import jax.numpy as jnp
import pytest

from tests.bean_jax.models.checks import check

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
DIM = 4
INPUTS = jax.random.normal(jax.random.key(1), (6, DIM))


def _make():
  """Returns a model with a state, and what enters its last layers."""
  inputs = keras.Input((DIM,))
  hidden = keras.layers.Dense(6, activation="relu", name="fc1")(inputs)
  hidden = keras.layers.BatchNormalization(name="norm")(hidden)
  hidden = keras.layers.Dropout(0.5, seed=0, name="dropout")(hidden)
  tokens = keras.layers.Reshape((2, 3))(hidden)
  mixed = keras.layers.EinsumDense("abc,cd->abd", (2, 5), name="mix")(tokens)
  flat = keras.layers.Flatten()(mixed)
  logits = keras.layers.Dense(2, name="head")(flat)
  return keras.Model(inputs, [logits, tokens, flat])


@pytest.fixture(autouse=True)
def _rank_promotion():
  # Keras adds biases so.
  with jax.numpy_rank_promotion("allow"):
    yield


def test_stateless_call():
  model = _make()
  params = {v.path: v.value for v in model.trainable_variables}
  state = [v.value for v in model.non_trainable_variables]

  def loss_fn(params, inputs, state):
    # Trees of dicts are sorted, and Keras wants its own order.
    values = [params[v.path] for v in model.trainable_variables]
    (logits, tokens, flat), state = model.stateless_call(
      values, state, inputs, training=True
    )
    return jnp.mean((logits - 0.5) ** 2), (tokens, flat, state)

  def by_hand(params, *args):
    _, (tokens, flat, _) = loss_fn(params, *args)
    return {
      "mix/kernel": (tokens, params["mix/kernel"]),
      "head/kernel": (flat, params["head/kernel"]),
    }

  check(loss_fn, params, INPUTS, state, by_hand=by_hand, raw=["fc1/kernel"])
