"""BEAN in Haiku: the three lines that it takes end in `# BEAN`.

    python -m examples.haiku_model

trains a small network on 100 handwritten digits without BEAN and with it. The
model knows nothing of BEAN: `capture` and `kernels` are to be copied.
"""

import haiku as hk
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax  # BEAN

model = hk.without_apply_rng(
  hk.transform(lambda images: hk.nets.MLP([64, 32, 10])(images))
)
tx = optax.adam(3e-3)


def capture(apply_fn, layers=lambda name: True):
  """Makes `apply` return (output, {layer: inputs of each hk.Linear}).

  The inputs of a layer that is called several times are joined along the batch.
  Refused by name, unless left out by `layers`: a layer within hk.scan, hk.remat
  or the like.
  """

  def call_fn(params, *args, **kwargs):
    calls, trace = {}, core.get_opaque_trace_state()

    def record(next_fn, args, kwargs, context):
      name = getattr(context.module, "module_name", "")
      is_call = context.method_name == "__call__"
      if isinstance(context.module, hk.Linear) and is_call and layers(name):
        if core.get_opaque_trace_state() != trace:
          raise ValueError(f"layer {name!r}: called in vmap, scan or remat")
        inputs = args[0].reshape(-1, args[0].shape[-1])
        calls.setdefault(name, []).append(inputs)
      return next_fn(*args, **kwargs)

    with hk.intercept_methods(record):
      output = apply_fn(params, *args, **kwargs)
    return output, {
      name: jnp.concatenate(parts) for name, parts in calls.items()
    }

  return call_fn


def kernels(params, inputs):
  """Returns {layer: kernel [N, M]}."""
  return {name: params[name]["w"] for name in inputs}


def loss_fn(params, images, labels, alpha):
  logits, inputs = capture(model.apply)(params, images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_jax.bean_penalty(inputs, kernels(params, inputs))  # BEAN
  return loss


@jax.jit
def train_step(params, opt_state, images, labels, alpha):
  gradients = jax.grad(loss_fn)(params, images, labels, alpha)
  updates, opt_state = tx.update(gradients, opt_state)
  return optax.apply_updates(params, updates), opt_state


@jax.jit
def evaluate(params, images, labels):
  logits, inputs = capture(model.apply)(params, images)
  accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels)
  return accuracy, bean_jax.bean_penalty(inputs, kernels(params, inputs))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = model.init(jax.random.key(0), images[:1])
  for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
    params, opt_state = initial, tx.init(initial)
    for _ in range(200):
      params, opt_state = train_step(
        params, opt_state, images[:100], labels[:100], alpha
      )
    accuracy, penalty = evaluate(params, images[100:], labels[100:])
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
