"""Found instead of the package by a script that is started by its path.

`python experiments/few_shot.py` looks for modules in its own folder, so that
its first import of `experiments` is this file, which says how to start it.
"""

import pathlib
import sys

print(
  "error: start it as a module, in the folder of this project: "
  f"python -m experiments.{pathlib.Path(sys.argv[0]).stem}",
  file=sys.stderr,
)
sys.exit(2)
