"""Which versions of programs and code records were made by."""

from collections import Counter
from collections.abc import Iterable, Sequence

from experiments.machine import jax_options, notices
from experiments.records import results
from experiments.records.results import Record


def mixed(records: Sequence[Record]) -> str:
  """Says which versions records were made by; "" if all by the same."""
  parts = [
    f"{name} {_listed(counts)}"
    for name, counts in _counted(records).items()
    if len(counts) > 1
  ]
  return f"Made by different versions: {'; '.join(parts)}." if parts else ""


def tell(records: Sequence[Record]) -> None:
  """Tells the user which records were made by other versions than these."""
  now = _versions_of(results.environment())
  others = [record for record in records if _versions_of(record) != now]
  parts = [
    f"{name} {_listed(counts)}, now {now.get(name, 'none')}"
    for name, counts in _counted(others, now).items()
    if counts and set(counts) != {now.get(name, "none")}
  ]
  if parts:
    notices.warn(
      f"{len(others)} of {len(records)} cells were made by other versions and"
      f" are used: {'; '.join(parts)}"
    )


def _counted(
  records: Sequence[Record], names: Iterable[str] = ()
) -> dict[str, Counter[str]]:
  """Counts the records of every version, by the name of what has it."""
  made_by = [_versions_of(record) for record in records]
  found = [name for versions in made_by for name in versions]
  return {
    name: Counter(versions.get(name, "none") for versions in made_by)
    for name in dict.fromkeys([*names, *found])
  }


def _versions_of(record: Record) -> dict[str, str]:
  """Returns all versions that a record names, that of the code first."""
  git = record.get("git") or {}
  commit = str(git.get("commit", "unknown"))[:7]
  changed = " with changes" if git.get("dirty") else ""
  versions = {k: str(v) for k, v in record.get("versions", {}).items()}
  # Of the settings only these may differ in records that are used together.
  settings = record.get("settings", {})
  variables = {k: v for k, v in settings.items() if k in jax_options.VARIABLES}
  return {"commit": commit + changed, **versions, **variables}


def _listed(counts: Counter[str]) -> str:
  """Returns versions with their numbers of cells, the most frequent first."""
  parts = [f"{name} ({count})" for name, count in counts.most_common(3)]
  first = counts.most_common(1)[0][1]
  parts[0] = f"{parts[0][:-1]} cell{'s' * (first > 1)})"
  if len(counts) > len(parts):
    parts.append(f"{len(counts) - len(parts)} more")
  return ", ".join(parts)
