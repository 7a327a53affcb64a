"""Tests of experiments.command.parsing."""

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


@pytest.mark.parametrize("value", (0, 0.5, 1_000_000, 1e38))
def test_number_in_range(value):
  number = parsing.number("flag", value, low=0)
  assert number == value
  assert type(number) is type(value)


def test_low_is_taken_and_below_is_not():
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
def test_number_out_of_range(value, high):
  message = refused(parsing.number, value, low=0)
  assert message.endswith(f"a number from 0 to {high}, got {value}")


@pytest.mark.parametrize(
  "kind,words,expected",
  ((int, ["3", "1"], [3, 1]), (float, ["1e-5", "3"], [1e-5, 3.0])),
)
def test_numbers_have_their_order_and_type(kind, words, expected):
  numbers = parsing.numbers("flag", words, kind, low=0)
  assert numbers == expected
  assert {type(number) for number in numbers} == {kind}


def test_equal_numbers():
  message = refused(parsing.numbers, ["1", "1.0"], float, low=0)
  assert "different numbers of type float, " in message
  same = parsing.numbers("flag", ["1", "1"], int, low=0, distinct=False)
  assert same == [1, 1]


@pytest.mark.parametrize("words", ([], [""], ["a"], ["1", ""], ["1.5"]))
def test_no_numbers(words):
  message = refused(parsing.numbers, words, int, low=0)
  assert message.endswith(f"got {','.join(words)!r}")
  assert "from 1 to 1e6, got 0" in refused(
    parsing.numbers, ["5", "0"], int, low=1
  )


def test_names():
  known = ("one", "two", "three")
  assert parsing.names("flag", ["two", "one"], known) == ["two", "one"]
  for words in ([], ["four"], ["one", "one"], ["One"]):
    message = refused(parsing.names, words, known)
    assert message.endswith(
      f"different ones of one, two, three, got {','.join(words)!r}"
    )


METHODS = ("vanilla", "dropout", "bean1")


@pytest.mark.parametrize(
  "text,expected",
  (
    ("1,10", {"": [1.0, 10.0]}),
    (
      "bean1:1,10 dropout:0.5 3",
      {"bean1": [1.0, 10.0], "dropout": [0.5], "": [3.0]},
    ),
    ("  bean1 : 1 , 10\n 2 ", {"bean1": [1.0, 10.0], "": [2.0]}),
  ),
)
def test_numbers_by_method(text, expected):
  assert parsing.by_method("flag", text, METHODS) == expected


@pytest.mark.parametrize(
  "text,message",
  (
    *(
      (text, f"dropout, bean1, as bean1:1,10, got {text!r}")
      for text in ("bean2:1", "1 2", "bean1:1 bean1:2", "bean1:dropout:1")
    ),
    *(
      (t, "different numbers of type float") for t in ("bean1:", "1,,2", "1,1")
    ),
    (" ", "expected numbers, got ' '"),
    ("1,-1", "from 0 to 1e38, got -1.0"),
    ("1,nan", "from 0 to 1e38, got nan"),
  ),
)
def test_what_is_no_number_of_a_method(text, message):
  assert message in refused(parsing.by_method, text, METHODS)


@pytest.mark.parametrize(
  "text,seeds",
  (
    (" 3 ", (0, 1, 2)),
    ("7-7", (7,)),
    ("999999998-999999999", (999_999_998, 999_999_999)),
    ("9, 0", (0, 9)),
    ("7-8,3,10-11", (3, 7, 8, 10, 11)),
    *((text, range(10_000)) for text in ("10000", "0-9999", "0,1-9999")),
  ),
)
def test_seeds_are_a_number_a_range_or_a_list(text, seeds):
  assert parsing.seeds("flag", text) == tuple(seeds)


@pytest.mark.parametrize(
  "text,message",
  (
    *(
      (text, f"or a list like 0,5,9, got {text!r}")
      for text in ("", "x", "-1", "1-", "1-2-3", "1.0", "1,")
    ),
    *((text, "which are 0") for text in ("0", "2-1")),
    *((text, "expected different ones, got") for text in ("1,1", "0-5,3")),
    *((text, "which are 10001") for text in ("10001", "5-10005", "0,5-10004")),
    ("3-2,1", "expected 1 to 10000 of them"),
  ),
)
def test_no_seeds(text, message):
  assert message in refused(parsing.seeds, text)
