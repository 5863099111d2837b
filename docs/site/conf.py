"""Sphinx's settings; the sources are those that docs.site.staging writes."""

from __future__ import annotations

from pathlib import Path

import gradnets_fast

ROOT = Path(__file__).resolve().parents[2]

project = "gradnets_fast"
author = "the authors of gradnets_fast"
release = version = gradnets_fast.__version__
copyright = "the authors of gradnets_fast, MIT license"

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"),
    *("sphinx_copybutton", "sphinx_gallery.gen_gallery", "docs.site.mathml", "docs.site.reference"),
]
root_doc = "index"
exclude_patterns = ["files"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
viewcode_line_numbers = True
# Types in signatures: of libraries, no inventory of whose pages is at hand without the network, and of no public name.
_LIBRARIES = r"(torch|collections|typing|numpy|os|pathlib|deepinv|pytorch_lightning)\..*|Tensor|DeviceMesh|Model"
_INTERNAL = r"gradnets_fast\.(functional\._network|swap\.report|swap\.energy)\..*"
nitpick_ignore_regex = [("py:.*", _LIBRARIES), ("py:class", _INTERNAL)]

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "abort_on_example_error": True,
    "show_signature": False,
    "thumbnail_size": (640, 260),
    "capture_repr": (),
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
}
suppress_warnings = ["config.cache"]  # the gallery's settings hold what Sphinx cannot keep between builds

html_theme = "furo"
html_title = f"gradnets_fast {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
