"""Tests of experiments.command.parsing; tests/faults draws malformed values."""

import functools
import math

import pytest

from experiments.command import parsing

METHODS = ("vanilla", "dropout", "bean1")
number = functools.partial(parsing.number, low=0)
below_2 = functools.partial(parsing.number, low=1, below=2)
integers = functools.partial(parsing.numbers, kind=int, low=0)
floats = functools.partial(parsing.numbers, kind=float, low=0)
names = functools.partial(parsing.names, known=("one", "two", "three"))
by_method = functools.partial(parsing.by_method, known=METHODS)


@pytest.mark.parametrize(
  "read,value,expected",
  (
    *((number, value, value) for value in (0, 0.5, 1_000_000, 1e38)),
    *((below_2, value, value) for value in (1, math.nextafter(2, 1))),
    (integers, ["3", "1"], [3, 1]),
    (floats, ["1e-5", "3"], [1e-5, 3.0]),
    (functools.partial(integers, distinct=False), ["1", "1"], [1, 1]),
    (names, ["two", "one"], ["two", "one"]),
    (by_method, "1,10", {"": [1.0, 10.0]}),
    (by_method, "bean1:1 dropout:0.5", {"bean1": [1.0], "dropout": [0.5]}),
    (by_method, " bean1 : 1 , 10\n 2 ", {"bean1": [1.0, 10.0], "": [2.0]}),
    (parsing.seeds, " 3 ", (0, 1, 2)),
    (parsing.seeds, "7-7", (7,)),
    (parsing.seeds, "999999998-999999999", (999_999_998, 999_999_999)),
    (parsing.seeds, "9, 0", (0, 9)),
    (parsing.seeds, "7-8,3,10-11", (3, 7, 8, 10, 11)),
    *(
      (parsing.seeds, text, tuple(range(10_000)))
      for text in ("10000", "0-9999", "0,1-9999")
    ),
  ),
)
def test_what_is_read(read, value, expected):
  found = read("flag", value)
  # Integers and floats are told apart.
  assert (found, repr(found)) == (expected, repr(expected))


@pytest.mark.parametrize(
  "read,value,message",
  (
    *((number, n, f"0 to 1e6, got {n}") for n in (-1, 1_000_001, 10**30)),
    *((number, n, f"0 to 1e38, got {n}") for n in (-1.0, math.nan, 2e38)),
    (below_2, 2, "a number from 1 to below 2, got 2"),
    (floats, ["1", "1.0"], "different numbers of type float, comma-separated"),
    *((integers, w, f"got {','.join(w)!r}") for w in ([], [""], ["1", "1.5"])),
    (integers, ["5", "-1"], "from 0 to 1e6, got -1"),
    *(
      (names, words, f"ones of one, two, three, got {','.join(words)!r}")
      for words in ([], ["four"], ["one", "one"], ["One"])
    ),
    *(
      (by_method, text, f"dropout, bean1, as bean1:1,10, got {text!r}")
      for text in ("bean2:1", "1 2", "bean1:1 bean1:2", "bean1:dropout:1")
    ),
    *(
      (by_method, t, "different numbers of") for t in ("bean1:", "1,,2", "1,1")
    ),
    (by_method, " ", "expected numbers, got ' '"),
    (by_method, "1,-1", "from 0 to 1e38, got -1.0"),
    *(
      (parsing.seeds, text, f"or a list like 0,5,9, got {text!r}")
      for text in ("", "x", "-1", "1-", "1-2-3", "1.0", "1,")
    ),
    *((parsing.seeds, text, "which are 0") for text in ("0", "2-1")),
    *(
      (parsing.seeds, text, "different ones, got") for text in ("1,1", "0-5,3")
    ),
    *(
      (parsing.seeds, text, "which are 10001")
      for text in ("10001", "5-10005", "0,5-10004")
    ),
    (parsing.seeds, "3-2,1", "expected 1 to 10000 of them"),
  ),
)
def test_what_is_refused_is_a_line(read, value, message):
  with pytest.raises(parsing.ConfigError) as error:
    read("flag", value)
  line = str(error.value)
  assert line.startswith("--flag: expected ")
  assert message in line
  assert "\n" not in line
