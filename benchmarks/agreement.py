"""No contender is timed before it is seen to compute the same."""

from typing import Any

import jax
import numpy as np

PyTree = Any

RTOL = 1e-4


class DisagreementError(Exception):
  """Two contenders compute different things; the text says where."""


def check(name: str, got: PyTree, expected: PyTree, *, rtol: float = RTOL):
  """Checks that trees are equal up to `rtol` of each array's greatest entry.

  Raises:
    DisagreementError: If they are not.

  Example:
    >>> check("it", {"loss": np.ones(2)}, {"loss": np.full(2, 1.00001)})
  """
  structures = jax.tree.structure(got), jax.tree.structure(expected)
  if structures[0] != structures[1]:
    raise DisagreementError(
      f"{name}: expected {structures[1]}, got {structures[0]}"
    )
  for (path, mine), theirs in zip(
    jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
  ):
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    where = f"{name}{jax.tree_util.keystr(path)}"
    if mine.shape != theirs.shape:
      raise DisagreementError(
        f"{where}: expected shape {list(theirs.shape)}, got {list(mine.shape)}"
      )
    difference = np.max(np.abs(mine - theirs), initial=0.0)
    allowed = rtol * np.max(np.abs(theirs), initial=0.0)
    # In this order, because comparisons with NaN are false.
    if not difference <= allowed:
      raise DisagreementError(
        f"{where}: differs by {difference:.3g}, allowed are {allowed:.3g}"
      )
