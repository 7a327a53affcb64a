"""Found instead of the package by a script that is started by its path.

`python benchmarks/run.py` looks for modules in its own folder, so that
its first import of `benchmarks` is this file, which says how to start it.
"""

import pathlib
import sys

print(
  "error: start it as a module, in the folder of this project: "
  f"python -m benchmarks.{pathlib.Path(sys.argv[0]).stem}",
  file=sys.stderr,
)
sys.exit(2)
