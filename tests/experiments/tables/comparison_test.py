"""Tests of experiments.tables.comparison; published_test has whole tables."""

from experiments.tables import comparison, protocols
from tests.experiments.tables import made


def test_markdown_and_latex_of_the_same_rows():
  rows = [["method", "1-shot"], ["a", "**2** (1.00)"], ["b", "__1__"]]
  assert comparison.to_markdown(rows).splitlines() == [
    "| method | 1-shot       |",
    "| ------ | ------------ |",
    "| a      | **2** (1.00) |",
    "| b      | <u>1</u>     |",
  ]
  latex = comparison.to_latex(rows)
  assert r"a & \textbf{2} (1.00) \\" in latex
  assert r"b & \underline{1} \\" in latex
  assert latex.count(r"\midrule") == 1


def test_files(tmp_path, capsys):
  vanilla = made.record("vanilla", dataset="mnist")
  grid = made.grid("bean1", (0.1, 0.2, 0.3, 0.4, 0.5), dataset="mnist")
  part = made.record("bean2", 10.0, dataset="mnist")
  records = protocols.Records(
    [vanilla, *grid], [vanilla, *grid, part], [vanilla]
  )
  names = ["vanilla", "bean1", "bean2"]
  text = comparison.write({"mnist": records}, names, [1], tmp_path)
  comparison.draw({"mnist": records}, names, tmp_path)
  assert (tmp_path / "table.md").read_text() == text
  assert {path.name for path in tmp_path.iterdir()} == {
    *("table.md", "table.tex"),
    *("accuracy_against_shots_mnist_paper.png", "sensitivity_mnist_bean1.png"),
    *("accuracy_against_shots_mnist_strict.png", "gains_mnist_strict.png"),
  }
  assert capsys.readouterr().err == ""
  for protocol in protocols.PROTOCOLS:
    assert f"## MNIST, protocol {protocol}: " in text


def test_gain_of_large_batches_is_over_vanilla_with_the_same():
  names = ["vanilla10", "decov"]
  chosen = [
    made.record("vanilla", test=0.4),
    made.record("vanilla10", test=0.5),
    made.record("decov", 1.0, test=0.7),
  ]
  found = protocols.entries("paper", protocols.Records([], [], chosen))
  _, batches, decov = comparison.details(found, names, [1], "digits")
  assert batches[5] == "+10.00 [+10.00, +10.00]"
  title = "(to Vanilla, batches of 10)"
  assert decov[5] == f"+20.00 [+20.00, +20.00] {title}"
  alone = protocols.Records([], [], [chosen[0], chosen[2]])
  assert not protocols.entries("paper", alone)["decov", 1].gains.size
