"""How Sphinx builds the documentation.

    python -m sphinx -W --keep-going -n -b html docs build/docs

Formulas become MathML, so that the pages need neither scripts nor a network.
"""

import pathlib
import sys
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
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"bean_jax {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_math_renderer = "mathml"


def _mathml(translator: Any, node: nodes.Element, display: str) -> None:
  translator.body.append(converter.convert(node.astext(), display=display))


def _visit_inline(translator: Any, node: nodes.Element) -> None:
  _mathml(translator, node, "inline")
  raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.Element) -> None:
  translator.body.append('<div class="math">')
  _mathml(translator, node, "block")
  translator.body.append("</div>")
  raise nodes.SkipNode


def setup(app: Any) -> None:
  """Registers the renderer of formulas."""
  app.add_html_math_renderer(
    "mathml", (_visit_inline, None), (_visit_block, None)
  )
