"""Convolutions as layers: channels are neurons, positions are samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference

# By the names of axes: of images, kernels and outputs.
LAYOUTS = (("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"))
SIZES = {"N": 3, "H": 5, "W": 4}


def _init(layout):
  rng = np.random.default_rng(0)
  kernels = {}
  for name, (inputs, outputs) in {"first": (2, 4), "last": (4, 3)}.items():
    sizes = {"H": 3, "W": 2, "I": inputs, "O": outputs}
    shape = tuple(sizes[axis] for axis in layout[1])
    kernels[name] = np.float32(rng.normal(size=shape))
  shape = tuple({**SIZES, "C": 2}[axis] for axis in layout[0])
  return kernels, np.float32(rng.normal(size=shape))


def _make_loss_fn(layout, **options):
  def loss_fn(params, images):
    hidden = jax.lax.conv_general_dilated(
      images, params["first"], (1, 1), "SAME", dimension_numbers=layout
    )
    hidden = jnp.tanh(hidden)
    outputs = jax.lax.conv_general_dilated(
      hidden,
      params["last"],
      (2, 2),
      "VALID",
      dimension_numbers=layout,
      **options,
    )
    return jnp.mean(outputs**2), hidden

  return loss_fn


def _expected(layout, kernels, images, **options):
  """Returns the penalty of the last convolution by its definition."""
  _, hidden = _make_loss_fn(layout)(kernels, images)
  channels = layout[0].index("C")
  activations = np.moveaxis(np.float64(hidden), channels, -1).reshape(-1, 4)
  kernel = np.moveaxis(np.float64(kernels["last"]), layout[1].index("I"), 0)
  return reference.layer_penalty(activations, kernel.reshape(4, -1), **options)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("distance", ("squared", "absolute"))
def test_channels_are_neurons(layout, order, distance):
  kernels, images = _init(layout)
  options = {"order": order, "distance": distance}
  loss_fn = _make_loss_fn(layout)
  bean_loss_fn = bean_jax.regularize(
    loss_fn, alpha=2.0, convolutions=True, **options
  )
  value_and_grad = jax.jit(jax.value_and_grad(bean_loss_fn, has_aux=True))
  (loss, _), gradient = value_and_grad(kernels, images)
  plain, _ = loss_fn(kernels, images)
  expected = _expected(layout, kernels, images, **options)
  np.testing.assert_allclose(loss - plain, 2 * expected, rtol=1e-4)
  plain_gradient = jax.grad(loss_fn, has_aux=True)(kernels, images)[0]
  for name in kernels:
    # Along the gradient, so that none of its entries cancels another.
    slopes = gradient[name] - plain_gradient[name]
    step = np.sign(slopes)
    rises = [
      _expected(
        layout,
        {**kernels, name: np.float32(kernels[name] + sign * 1e-3 * step)},
        images,
        **options,
      )
      for sign in (1, -1)
    ]
    expected = 2 * (rises[0] - rises[1]) / 2e-3
    np.testing.assert_allclose(np.sum(slopes * step), expected, rtol=1e-2)


def test_off_by_default_and_said_so():
  kernels, images = _init(LAYOUTS[0])
  loss_fn = _make_loss_fn(LAYOUTS[0])
  found = bean_jax.find_layers(loss_fn, kernels, images)
  assert [tuple(layer) for layer in found] == [
    ("first", 2, 24, 1, "a convolution"),
    ("last", 4, 18, 1, "a convolution"),
  ]
  with pytest.raises(ValueError, match="'last' .a convolution."):
    bean_jax.regularize(loss_fn, alpha=1.0)(kernels, images)


def test_the_convolution_of_raw_images_is_left_out():
  kernels, images = _init(LAYOUTS[0])
  penalties = bean_jax.penalties(_make_loss_fn(LAYOUTS[0]), convolutions=True)
  assert set(penalties(kernels, images)[1]) == {"last"}
  penalties = bean_jax.penalties(
    _make_loss_fn(LAYOUTS[0]), convolutions=True, layers=["first", "last"]
  )
  assert set(penalties(kernels, images)[1]) == {"first", "last"}


def test_grouped_convolutions_are_refused_by_name():
  kernels, images = _init(LAYOUTS[0])
  kernels["last"] = kernels["last"][:, :, :2, :2]
  loss_fn = _make_loss_fn(LAYOUTS[0], feature_group_count=2)
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0, convolutions=True)
  with pytest.raises(ValueError, match="'last': its channels are grouped"):
    bean_loss_fn(kernels, images)
