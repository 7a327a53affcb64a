"""Tests of experiments.assemblies.portraits, and drawing."""

from matplotlib import image
import numpy as np
import pytest

from experiments.assemblies import drawing, measures, portraits, summary
from tests.experiments.assemblies import planted


def _portrait(layer):
  layers = measures.subjects(layer, layer, seed=0)
  settings = measures.Settings(max_clusters=6, restarts=1, controls=2)
  metrics = measures.measure(layers, settings, gamma=1.0, seed=0)
  return portraits.portray(
    "Planted", layer, metrics, settings, order=1, gamma=1.0, seed=0
  )


@pytest.fixture(scope="module")
def layers():
  layer = planted.make_layer()
  silent = layer._replace(activations=np.zeros_like(layer.activations))
  bias = layer.dense[0][1]
  unconnected = layer._replace(dense=((np.zeros_like(layer.kernel), bias),))
  return [_portrait(each) for each in (layer, silent, unconnected)]


def _num_dark(path):
  """Counts dark pixels of what was written."""
  assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
  pixels = image.imread(path)[..., :3]
  return np.count_nonzero(pixels.min(axis=-1) < 0.5)


@pytest.mark.parametrize(
  "name", ("maps", "ablations", "coactivation", "wiring")
)
def test_figures_are_drawn_of_one_layer_and_of_many(tmp_path, layers, name):
  draw = getattr(portraits, name)
  many = name in ("maps", "ablations")
  drawn = [layers[:1], layers] if many else layers
  for index, each in enumerate(drawn):
    draw(tmp_path / f"{index}.png", each)
    assert _num_dark(tmp_path / f"{index}.png") > 0


def test_equal_data_make_equal_files(tmp_path, layers):
  for name in ("one", "other"):
    portraits.wiring(tmp_path / f"{name}.png", layers[0])
  for ending in ("png", "pdf"):
    one, other = (tmp_path / f"{name}.{ending}" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_ablation_map_has_a_number_for_each_loss(layers, tmp_path):
  drawing = portraits.ablations(tmp_path / "a.png", layers[:1])
  plot = drawing.axes[0]
  texts = {text.get_position(): text.get_text() for text in plot.texts}
  losses = 100 * layers[0].metrics["ablation_zero"]
  assert texts == {
    (column, row): f"{losses[row, column]:.0f}"
    for row, column in np.argwhere(np.abs(losses) >= 0.5)
  }
  assert len(texts) == len(drawing.axes) == 4
  assert plot.get_title() == "prefer it, to zero: share 1.00"
  inner = layers[0]._replace(metrics=dict(layers[0].metrics))
  del inner.metrics["targeting_mean"]
  assert len(portraits.ablations(tmp_path / "a.png", [inner]).axes) == 3


def test_silhouettes(tmp_path):
  curves = np.array([[0.1, 0.2, 0.4], [0.3, 0.4, np.nan]])
  lines = {"line": curves, "none": np.full((1, 3), np.nan)}
  drawn = drawing.silhouettes(
    tmp_path / "a.png", dict.fromkeys("abcd", lines), num_classes=3
  )
  assert _num_dark(tmp_path / "a.png") > 0
  line = drawn.axes[0].get_lines()[0]
  np.testing.assert_array_equal(line.get_xdata(), [2, 3, 4])
  np.testing.assert_allclose(line.get_ydata(), [0.2, 0.3, 0.4])
  (legend,) = drawn.legends
  assert [t.get_text() for t in legend.get_texts()] == ["line", "none"]


def test_against_strength(tmp_path):
  first, second = [0.1, 0.3], [0.5, None]
  cells = [
    summary.Cell(method, strength, ({"metrics": {"number": values}},))
    for method, strength, values in (
      ("vanilla", 0.0, first),
      ("bean1", 1.0, first),
      ("bean1", 10.0, second),
      ("bean2", 1.0, second),
    )
  ]
  panels = {
    "number": (lambda c: c.values("number"), lambda c: 2 * c.values("number")),
    "alone": (lambda c: c.values("number"), None),
  }
  drawn = drawing.against_strength(tmp_path / "a.png", tuple(cells), panels)
  for plot, expected in zip(
    drawn.axes, ([[0.4, 1.0], [0.2, 0.5]], [[0.2, 0.5]]), strict=True
  ):
    lines = [
      line.get_ydata()
      for line in plot.get_lines()
      if list(line.get_xdata()) == [1.0, 10.0]
    ]
    np.testing.assert_allclose(lines[: len(expected)], expected)
  assert len(drawn.legends[0].get_texts()) == 3


def test_wiring_has_the_neurons_of_an_assembly_side_by_side(layers, tmp_path):
  drawing = portraits.wiring(tmp_path / "a.png", layers[0])
  similar, connections, weights, *_ = drawing.axes
  order = np.argsort(planted.serves(), kind="stable")
  np.testing.assert_allclose(
    weights.images[0].get_array(), layers[0].kernel[order]
  )
  labels = [text.get_text() for text in connections.get_xticklabels()]
  assert labels == list("ABCD")
  np.testing.assert_allclose(similar.get_yticks(), [2.5, 8.5, 14.5, 20.5])
