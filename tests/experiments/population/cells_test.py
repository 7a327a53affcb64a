"""Tests of experiments.population.cells: what tells cells apart."""

import functools
import json

import pytest

from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.options import COMPETING_OPTIONS
from experiments.learning.streams import Augmentation, Shots, Whole
from experiments.population import cells
from experiments.population.cells import Cell, Member
from experiments.records import results
from tests.experiments import in_process, planned

VANILLA = Cell(Shots(1), "vanilla", 0.0, 6)
BEAN = Cell(Shots(1), "bean1", 10.0, 6)
WHOLE = BEAN._replace(stream=Whole())


make_config = functools.partial(planned.make_config, chosen=(VANILLA, BEAN))


def fields(cell, **choices):
  return cells.cell_config(make_config(**choices), cell)


@pytest.mark.parametrize("name", methods.METHODS)
def test_unusual_choices_of_the_method_are_named(name):
  method = methods.METHODS[name]
  cell = Cell(Shots(1), name, 0.5, 60)
  usual = fields(cell)
  expected = {
    field: getattr(planned.UNUSUAL, field) for field in method.options
  }
  if name == "imitation":
    # It has a pace of its own.
    assert usual["optimizer"] == "nadam"
    expected |= {"epochs": 60, "validate_every": 30}
  if method.options == COMPETING_OPTIONS:
    assert (usual["epochs"], usual["validate_every"]) == (500, 20)
    expected |= {"epochs": 150, "validate_every": 10}
  assert fields(cell, options=planned.UNUSUAL) == {**usual, **expected}


def test_validations_and_network_are_named_where_unusual():
  usual = fields(VANILLA)
  for every, named in ((2, 2), (6, 6), (0, 6)):
    seldom = fields(VANILLA, validate_every=every)
    assert seldom == {**usual, "validate_every": named}
  # Equal schedules share their programs.
  once, last = (
    cells.schedule(VANILLA, make_config(validate_every=every).protocol)
    for every in (0, 6)
  )
  assert once == last
  lecun = networks.Spec(initializer="lecun_normal")
  named = {**usual, "initializer": "lecun_normal"}
  assert fields(VANILLA, network=lecun) == named
  resnet = networks.Spec("resnet18", bfloat16=True)
  named = {**fields(WHOLE), "model": "resnet18", "bfloat16": True}
  assert fields(WHOLE, network=resnet) == named


def test_a_network_of_its_own():
  cell = Cell(Whole(), "competing100", 0.4, 6)
  usual = fields(cell)
  assert usual["model"] == "competing100"
  assert (usual["delta"], usual["competing_epochs"]) == (0.4, 200)
  for spec in (
    networks.Spec("resnet18", bfloat16=True),
    networks.Spec(initializer="lecun_normal"),
  ):
    assert fields(cell, network=spec) == usual


def test_everything_that_numbers_depend_on_tells_cells_apart():
  of_cells = (
    {"stream": Shots(2)},
    *(
      {"stream": Whole(**change)}
      for change in (
        {},
        {"augmentation": Augmentation(flip=True)},
        {"augmentation": Augmentation(crop=True)},
        {"num_shards": 2},
        {"patience": 3},
        {"tolerance": 0.5},
      )
    ),
    {"method": "bean2"},
    {"strength": 1.0},
    {"epochs": 12},
    {"learning_rate": 1e-3},
  )
  of_runs = (
    {},
    {"dataset": "mnist"},
    {"network": networks.Spec("mlp500")},
    {"network": networks.Spec(initializer="lecun_normal")},
    {"network": networks.Spec(bfloat16=True)},
    {"seeds": (3, 6)},
    {"batch_size": 2},
    {"validate_every": 2},
    {"options": methods.Options(gamma=2.0)},
  )
  # So that a field which is added is thought of.
  changed = {field for change in of_cells for field in change}
  assert changed == set(Cell._fields)
  changed = {field for change in of_runs for field in change} - {"dataset"}
  assert changed | {"members_per_chunk"} == set(cells.Protocol._fields)
  variants = [fields(BEAN._replace(**change)) for change in of_cells]
  variants += [fields(BEAN, **change) for change in of_runs]
  digests = {results.config_digest(variant) for variant in variants}
  assert len(digests) == len(variants)
  assert fields(BEAN, members_per_chunk=2, data_dir="x") == fields(BEAN)


def test_members_are_told_apart_by_their_seed():
  config = make_config()
  (a, b) = (cells.member_config(config, Member(BEAN, s)) for s in (3, 5))
  assert {**a, "seed": 5} == b
  assert "seeds" not in a


RECORDS = sorted(
  path
  for folder in ("few_shot_mnist", "dropout_at_eval", "full_data", "study")
  for path in (in_process.ROOT / "results" / folder).rglob("*.json")
) + sorted((in_process.ROOT / "results/table1/chosen").glob("*.json"))


def test_records_of_before_are_valid():
  """Those of results/ are found, under their names, and are not made again."""
  assert len(RECORDS) > 200
  for path in RECORDS:
    old = results.read(path)["config"]
    method = methods.METHODS[old["method"]]
    options = {k: old[k] for k in methods.Options._fields if k in old}
    if "layers" in options:
      options["layers"] = tuple(options["layers"])
    stream = Whole(
      Augmentation(old.get("flip"), old.get("crop")),
      patience=old.get("patience"),
      tolerance=old.get("tolerance"),
    )
    scale = method.batch if "shots" in old and old["batch_size"] else 1
    cell = Cell(
      Shots(old["shots"]) if "shots" in old else stream,
      old["method"],
      old[method.hparam] if method.hparam else 0.0,
      old["epochs"] // scale,
      old["learning_rate"],
    )
    config = make_config(
      path.parent,
      dataset=old["dataset"],
      network=networks.Spec(
        old["model"], old.get("initializer", "pytorch_uniform")
      ),
      seeds=tuple(old["seeds"]),
      options=methods.Options(**options),
      batch_size=old["batch_size"] // scale,
      validate_every=old.get("validate_every", 1) // scale or 1,
    )
    # JSON has no tuples.
    new = json.loads(json.dumps(cells.cell_config(config, cell)))
    assert new == old, path
    assert cells.cell_path(config, cell) == path


def test_every_cell_has_a_file_of_its_own():
  config = make_config()
  every = {
    Cell(stream, name, strength, 6)
    for stream in (Shots(1), Shots(11), Whole())
    for name, method in methods.METHODS.items()
    for strength in (*method.grid, 1.0000001, 1e-5)
    if method.hparam or strength == 0
  }
  paths = {cells.cell_path(config, cell) for cell in every}
  assert len(paths) == len(every)
  safe = set("abcdefghijklmnopqrstuvwxyz0123456789._-+")
  assert all(set(path.name) <= safe for path in paths)


def test_describe():
  assert cells.describe(BEAN) == "1-shot BEAN-1 alpha=10"
  assert cells.describe(WHOLE) == "BEAN-1 alpha=10"
  assert cells.describe(VANILLA) == "1-shot Vanilla"
