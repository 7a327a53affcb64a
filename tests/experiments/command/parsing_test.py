"""Tests of experiments.command.parsing; few_shot_test has flags that use it."""

import math

import pytest

from experiments.command import parsing


def refused(function, *args, **kwargs):
  """Calls a function with what it refuses; the line that says why."""
  with pytest.raises(parsing.ConfigError) as error:
    function("flag", *args, **kwargs)
  text = str(error.value)
  assert text.startswith("--flag: expected ")
  assert "\n" not in text
  return text


class TestNumber:
  @pytest.mark.parametrize("value", (0, 0.5, 7, 1_000_000, 1e38))
  def test_returns_what_is_in_range(self, value):
    number = parsing.number("flag", value, low=0)
    assert number == value
    assert type(number) is type(value)

  def test_low_is_taken_and_below_is_not(self):
    assert parsing.number("flag", 1, low=1, below=2) == 1
    assert parsing.number("flag", math.nextafter(2, 1), low=1, below=2) < 2
    message = refused(parsing.number, 2, low=1, below=2)
    assert message.endswith("a number from 1 to below 2, got 2")

  @pytest.mark.parametrize(
    "value,high",
    (
      *((value, "1e6") for value in (-1, 1_000_001, 10**30)),
      *((value, "1e38") for value in (-1.0, math.nan, math.inf, 2e38)),
    ),
  )
  def test_out_of_range(self, value, high):
    message = refused(parsing.number, value, low=0)
    assert message.endswith(f"a number from 0 to {high}, got {value}")


class TestNumbers:
  def test_returns_them_in_order_with_their_type(self):
    for kind, words, expected in (
      (int, ["3", "1"], [3, 1]),
      (float, ["1e-5", "3"], [1e-5, 3.0]),
    ):
      numbers = parsing.numbers("flag", words, kind, low=0)
      assert numbers == expected
      assert all(type(number) is kind for number in numbers)

  def test_equal_ones(self):
    message = refused(parsing.numbers, ["1", "1.0"], float, low=0)
    assert message.endswith(
      "different numbers of type float, comma-separated, got '1,1.0'"
    )
    same = parsing.numbers("flag", ["1", "1"], int, low=0, distinct=False)
    assert same == [1, 1]

  @pytest.mark.parametrize("words", ([], [""], ["a"], ["1", ""], ["1.5"]))
  @pytest.mark.parametrize("distinct", (True, False))
  def test_no_numbers(self, words, distinct):
    message = refused(parsing.numbers, words, int, low=0, distinct=distinct)
    assert ("different" in message) == distinct
    assert message.endswith(f"got {','.join(words)!r}")

  def test_one_out_of_range(self):
    message = refused(parsing.numbers, ["5", "0"], int, low=1)
    assert message.endswith("from 1 to 1e6, got 0")


def test_names():
  known = ("one", "two", "three")
  assert parsing.names("flag", ["two", "one"], known) == ["two", "one"]
  for words in ([], ["four"], ["one", "one"], ["One"]):
    message = refused(parsing.names, words, known)
    assert message.endswith(
      f"different ones of one, two, three, got {','.join(words)!r}"
    )


class TestByMethod:
  KNOWN = ("vanilla", "dropout", "bean1")

  @pytest.mark.parametrize(
    "text,expected",
    (
      ("1,10", {"": [1.0, 10.0]}),
      (
        "bean1:1,10 dropout:0.5 3",
        {"bean1": [1.0, 10.0], "dropout": [0.5], "": [3.0]},
      ),
      ("3 bean1:0", {"": [3.0], "bean1": [0.0]}),
      ("  bean1 : 1 , 10\n 2 ", {"bean1": [1.0, 10.0], "": [2.0]}),
    ),
  )
  def test_numbers_by_method(self, text, expected):
    assert parsing.by_method("flag", text, self.KNOWN) == expected

  @pytest.mark.parametrize(
    "text,message",
    (
      *(
        (text, "for some of vanilla, dropout, bean1, as bean1:1,10, got ")
        for text in (
          *("bean2:1", "Bean1:1", "1 2", "bean1:1 bean1:2"),
          *("bean1:dropout:1", ":1 2"),
        )
      ),
      *(
        (text, "different numbers of type float, comma-separated")
        for text in ("bean1:", "x", "1,,2", "bean1:1,1 2")
      ),
      (" ", "expected numbers, got ' '"),
      ("1,-1", "from 0 to 1e38, got -1.0"),
      ("1,nan", "from 0 to 1e38, got nan"),
    ),
  )
  def test_refused(self, text, message):
    line = refused(parsing.by_method, text, self.KNOWN)
    assert message in line
    assert not message.startswith("for some") or line.endswith(repr(text))


class TestSeeds:
  @pytest.mark.parametrize(
    "text,seeds",
    (
      ("1", [0]),
      (" 3 ", [0, 1, 2]),
      ("0-1", [0, 1]),
      ("7-7", [7]),
      ("999999998-999999999", [999_999_998, 999_999_999]),
      ("0,5,9", [0, 5, 9]),
      ("9, 0", [0, 9]),
      ("7-8,3,10-11", [3, 7, 8, 10, 11]),
    ),
  )
  def test_number_range_or_list(self, text, seeds):
    assert parsing.seeds("flag", text) == tuple(seeds)

  @pytest.mark.parametrize(
    "text,message",
    (
      *(
        (text, f"or a list like 0,5,9, got {text!r}")
        for text in ("", "x", "-1", "1-", "1-2-3", "1.0", "1,", ",2")
      ),
      *((text, f"got {text!r}, which are 0") for text in ("0", "2-1")),
      *(
        (text, f"expected different ones, got {text!r}")
        for text in ("1,1", "0-5,3")
      ),
      *(
        (text, f"got {text!r}, which are 10001")
        for text in ("10001", "5-10005", "0,5-10004")
      ),
      ("3-2,1", "expected 1 to 10000 of them, got '3-2,1', which are 1"),
    ),
  )
  def test_refused(self, text, message):
    assert refused(parsing.seeds, text).endswith(message)

  def test_at_most_10000(self):
    for text in ("10000", "5-10004", "0,5-10003"):
      assert len(parsing.seeds("flag", text)) == 10_000
