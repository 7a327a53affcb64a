"""How Sphinx builds the documentation.

    python -m sphinx -W --keep-going -n -b html docs build/docs

Formulas become MathML, so that the pages need neither scripts nor a network.
"""

import pathlib
import re
import runpy
import sys
import tempfile
from typing import Any

from docutils import nodes
from latex2mathml import converter

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import bean_jax

project = "bean_jax"
author = "the bean_jax authors"
version = release = bean_jax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
# What docstrings put between single backticks is code.
default_role = "code"
# Dashes alone: quotes in docstrings are those of Python.
smartquotes_action = "D"
# Shapes and meaning are in the text; types are in the source.
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"bean_jax {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"


def _mathml(translator: Any, node: nodes.Element, display: str) -> None:
  formula = converter.convert(node.astext(), display=display)
  # Letters are those of a text font in italics: where no font of mathematics
  # is installed, a browser gathers theirs from several.
  formula = re.sub(
    r"<mi>(\w|&#\w+;)</mi>", r'<mi class="letter">\1</mi>', formula
  )
  translator.body.append(formula)


def _visit_inline(translator: Any, node: nodes.Element) -> None:
  _mathml(translator, node, "inline")
  raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.Element) -> None:
  translator.body.append('<div class="math">')
  _mathml(translator, node, "block")
  translator.body.append("</div>")
  raise nodes.SkipNode


def _skip_field(
  app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
  """Leaves fields of named tuples to the docstring of their class."""
  del app, what, name, skip, options
  return True if type(member).__name__ == "_tuplegetter" else None


def _draw_tutorial(app: Any, exception: Exception | None) -> None:
  """Runs the tutorial, and keeps the figure that it draws."""
  if exception is None and app.builder.format == "html":
    text = (pathlib.Path(app.srcdir) / "tutorial.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    with tempfile.TemporaryDirectory() as folder:
      program = pathlib.Path(folder) / "tutorial.py"
      program.write_text("".join(blocks))
      names = runpy.run_path(str(program))
    path = pathlib.Path(app.outdir) / "_static" / "tutorial.png"
    names["drawing"].savefig(path, dpi=150)


def setup(app: Any) -> None:
  """Registers formulas, what autodoc leaves out, and the tutorial's figure."""
  app.connect("build-finished", _draw_tutorial)
  app.connect("autodoc-skip-member", _skip_field)
  app.add_html_math_renderer(
    "mathml", (_visit_inline, None), (_visit_block, None)
  )
