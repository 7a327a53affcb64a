"""Tests of experiments.command.parsing; few_shot_test has flags that use it."""

import math

import pytest

from experiments.command import parsing


def refused(function, *args, **kwargs):
  """Calls a function with what it refuses; the line that says why."""
  with pytest.raises(parsing.ConfigError) as error:
    function(*args, **kwargs)
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
    message = refused(parsing.number, "flag", 2, low=1, below=2)
    assert message.endswith("a number from 1 to below 2, got 2")

  @pytest.mark.parametrize("value", (-1, 1_000_001, 10**30))
  def test_integers_out_of_range(self, value):
    message = refused(parsing.number, "flag", value, low=0)
    assert message.endswith(f"a number from 0 to 1e6, got {value}")

  @pytest.mark.parametrize("value", (-1.0, math.nan, math.inf, -math.inf, 2e38))
  def test_out_of_range(self, value):
    message = refused(parsing.number, "flag", value, low=0)
    assert message.endswith(f"a number from 0 to 1e38, got {value}")


class TestNumbers:
  def test_returns_them_in_order_with_their_type(self):
    numbers = parsing.numbers("flag", ["3", "1"], int, low=1)
    assert numbers == [3, 1]
    assert all(type(number) is int for number in numbers)
    numbers = parsing.numbers("flag", ["1e-5", "3"], float, low=0)
    assert numbers == [1e-5, 3.0]
    assert all(type(number) is float for number in numbers)

  def test_equal_ones(self):
    message = refused(parsing.numbers, "flag", ["1", "1.0"], float, low=0)
    assert message.endswith(
      "different numbers of type float, comma-separated, got '1,1.0'"
    )
    same = parsing.numbers("flag", ["1", "1"], int, low=0, distinct=False)
    assert same == [1, 1]

  @pytest.mark.parametrize("words", ([], [""], ["a"], ["1", ""], ["1.5"]))
  @pytest.mark.parametrize("distinct", (True, False))
  def test_no_numbers(self, words, distinct):
    message = refused(
      parsing.numbers, "flag", words, int, low=0, distinct=distinct
    )
    assert ("different" in message) == distinct
    assert message.endswith(f"got {','.join(words)!r}")

  def test_one_out_of_range(self):
    message = refused(parsing.numbers, "flag", ["5", "0"], int, low=1)
    assert message.endswith("from 1 to 1e6, got 0")


class TestNames:
  KNOWN = ("one", "two", "three")

  def test_returns_them_in_order(self):
    assert parsing.names("flag", ["two", "one"], self.KNOWN) == ["two", "one"]

  @pytest.mark.parametrize("words", ([], ["four"], ["one", "one"], ["One"]))
  def test_refused(self, words):
    message = refused(parsing.names, "flag", words, self.KNOWN)
    assert message.endswith(
      f"different ones of one, two, three, got {','.join(words)!r}"
    )


class TestByMethod:
  KNOWN = ("vanilla", "dropout", "bean1")

  @pytest.mark.parametrize(
    "text,expected",
    (
      ("1,10", {"": [1.0, 10.0]}),
      ("bean1:1,10", {"bean1": [1.0, 10.0]}),
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
    "text",
    ("bean2:1", "Bean1:1", "1 2", "bean1:1 bean1:2", "bean1:dropout:1", ":1 2"),
  )
  def test_whose_they_are_must_be_said_once(self, text):
    message = refused(parsing.by_method, "flag", text, self.KNOWN)
    assert "for some of vanilla, dropout, bean1, as bean1:1,10, got " in message
    assert message.endswith(repr(text))

  @pytest.mark.parametrize("text", ("bean1:", "x", "1,,2", "bean1:1,1 2"))
  def test_no_numbers(self, text):
    message = refused(parsing.by_method, "flag", text, self.KNOWN)
    assert "different numbers of type float, comma-separated" in message

  def test_nothing(self):
    message = refused(parsing.by_method, "flag", " ", self.KNOWN)
    assert message.endswith("expected numbers, got ' '")

  @pytest.mark.parametrize("word", ("-1", "nan", "inf", "1e39"))
  def test_out_of_range(self, word):
    message = refused(parsing.by_method, "flag", f"1,{word}", self.KNOWN)
    assert message.endswith(f"from 0 to 1e38, got {float(word)}")


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

  def test_at_most_10000(self):
    assert len(parsing.seeds("flag", "10000")) == 10_000
    assert len(parsing.seeds("flag", "5-10004")) == 10_000
    assert len(parsing.seeds("flag", "0,5-10003")) == 10_000
    for text in ("10001", "5-10005", "0,5-10004"):
      message = refused(parsing.seeds, "flag", text)
      assert message.endswith(f"got {text!r}, which are 10001")

  @pytest.mark.parametrize(
    "text", ("", "x", "-1", "1-", "1-2-3", "1.0", "1,", ",2")
  )
  def test_none_of_these(self, text):
    message = refused(parsing.seeds, "flag", text)
    assert message.endswith(f"or a list like 0,5,9, got {text!r}")

  @pytest.mark.parametrize("text", ("0", "2-1"))
  def test_none(self, text):
    message = refused(parsing.seeds, "flag", text)
    assert message.endswith(f"got {text!r}, which are 0")

  @pytest.mark.parametrize("text", ("1,1", "0-5,3"))
  def test_twice(self, text):
    message = refused(parsing.seeds, "flag", text)
    assert message.endswith(f"expected different ones, got {text!r}")

  def test_a_range_of_none_in_a_list(self):
    message = refused(parsing.seeds, "flag", "3-2,1")
    assert "expected 1 to 10000" in message
