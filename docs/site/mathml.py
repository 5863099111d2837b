"""Formulas as MathML, by docutils' own translation: browsers show it without scripts, and without the network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_logger = logging.getLogger(__name__)


def _translated(node: nodes.math | nodes.math_block, as_block: bool) -> str:
    """The formula in MathML, or a warning with its place."""
    try:
        found: str = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        _logger.warning("formula: %s", error, location=node)
        return ""
    return found


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_translated(node, as_block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{_translated(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
