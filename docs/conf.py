"""Sphinx builds the site from here: ``make docs``."""

import os
import re
import sys
from datetime import date
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

import skgvae

sys.path.insert(0, str(Path(__file__).parent))
import recipe_tables

project = "skgvae"
author = "The skgvae developers"
copyright = f"{date.today().year}, {author}"
version = release = skgvae.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "myst_parser",  # for the pages that are kept in Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "examples"]
templates_path = ["_templates"]
default_role = "literal"

# References to skgvae must lead somewhere; those to others do where their inventories are at hand.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!skgvae\.).*")]
INVENTORIES = {
    "python": "https://docs.python.org/3",
    "numpy": "https://numpy.org/doc/stable",
    "sklearn": "https://scikit-learn.org/stable",
    "skorch": "https://skorch.readthedocs.io/en/stable",
    "torch": "https://docs.pytorch.org/docs/stable",
}
ONLINE = os.environ.get("READTHEDOCS") or os.environ.get("SKGVAE_DOCS_ONLINE")
intersphinx_mapping = {name: (url, None) for name, url in INVENTORIES.items() if ONLINE}

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are written in the docstrings
numpydoc_show_class_members = False

toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

plot_include_source = True
plot_html_show_formats = False
plot_html_show_source_link = False
plot_formats = [("png", 150)]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("skgvae",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"skgvae": None},
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_",),
    "show_memory": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "skgvae"
html_static_path = ["_static"]
html_css_files = ["skgvae.css"]
html_show_sourcelink = False
html_sidebars = {"install": [], "benchmarks": [], "references": [], "changelog": []}
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "navigation_with_keys": False,
}

# Labels and terms in docstrings that the estimators inherit from scikit-learn.
OF_SKLEARN = {
    "accuracy_score",
    "classes_",
    "df_output_transform",
    "fit",
    "meta-estimator",
    "metadata_routing",
    "r2_score",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py",
}


def escape_shapes(app, what, name, obj, options, lines):
    """Escape what means something else to Sphinx in shapes such as (*, n_features_)."""
    lines[:] = [re.sub(r"(\*|(?<=\w)_)(?=[,)])", r"\\\1", line) for line in lines]


def leave_as_text(app, env, node, contnode):
    """Return the text of references that need scikit-learn's inventory, which may be absent."""
    return contnode if node["reftarget"] in OF_SKLEARN else None


class RecipeTables(SphinxDirective):
    """``.. recipe-tables::`` is what 'auto' means to the estimators."""

    def run(self):
        for source in recipe_tables.SOURCES:
            self.env.note_dependency(source)
        return self.parse_text_to_nodes(recipe_tables.tables())


def setup(app):
    app.add_directive("recipe-tables", RecipeTables)
    app.connect("autodoc-process-docstring", escape_shapes, priority=0)
    app.connect("missing-reference", leave_as_text, priority=900)  # after intersphinx
