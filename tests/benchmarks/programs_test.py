"""The case of whole programs: what is timed trains, and what it penalizes."""

import jax
import pytest

import bean_jax
from benchmarks import cases, programs

QUICK = cases.Settings(quick=True, repeats=1, torch=False)


@pytest.mark.slow
def test_rows_and_ratios():
  case = programs.run(QUICK)
  assert len(case.rows) == 3 * (1 + len(programs.SAMPLES))
  for row in case.rows:
    assert row["median"] > 0
    is_plain = row["name"].endswith(": plain")
    assert (row["times_own_plain_step"] == 1) == is_plain


@pytest.mark.parametrize("index", range(3))
def test_programs_penalize_all_layers_but_those_of_raw_data(index):
  model, inputs, labels = list(programs.programs(quick=True).values())[index]
  params = model.init(jax.random.key(0), inputs[:1])["params"]
  found = bean_jax.find_layers(
    lambda *args: programs._loss(model, *args), params, inputs, labels
  )
  kernels = [
    "/".join(key.key for key in path)
    for path, leaf in jax.tree.leaves_with_path(params)
    if path[-1].key == "kernel"
  ]
  # Characters become neurons by an embedding.
  raw = [{"layers_0/kernel"}, {"Dense_0/kernel"}, set()][index]
  assert {layer.path for layer in found} == set(kernels)
  assert {layer.path for layer in found if layer.left_out} == raw


@pytest.mark.slow
def test_layouts_are_the_same_layer():
  case = programs.layouts(QUICK)
  assert [row["name"] for row in case.rows] == [
    "[N, M], plain",
    "[N, M], BEAN-1",
    "[M, N], plain",
    "[M, N], BEAN-1",
  ]
  assert all(row["median"] > 0 for row in case.rows)
