"""What README prints is what runs."""

import re
import textwrap
from pathlib import Path

import pytest

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^( *)```python\n(.*?)^ *```", README.read_text(), re.S | re.M)
LINKS = re.findall(r"(?:\]\(|^\[.+\]: )([^\s)]+)", README.read_text(), re.M)
SITE = "https://skgvae.readthedocs.io/en/stable/"


@pytest.mark.parametrize("block", [textwrap.dedent(code) for _, code in BLOCKS])
def test_python_blocks_run(block, monkeypatch):
    # No block prints a number, so a short training shows as much as a long one.
    for estimator in (GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier):
        monkeypatch.setitem(estimator.__init__.__kwdefaults__, "max_epochs", 2)
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    assert {"vae", "model", "detector"} & set(scope)


def pages():
    docs = README.parent / "docs"
    yield from (p.relative_to(docs).with_suffix(".html").as_posix() for p in docs.rglob("*.rst"))
    yield from (f"auto_examples/{p.stem}.html" for p in docs.glob("examples/plot_*.py"))
    yield from (f"_images/{p.name}" for p in docs.glob("images/*"))


@pytest.mark.parametrize("link", LINKS)
def test_links_work_on_any_site(link):
    assert link.startswith("https://")  # PyPI shows README alone
    if link.startswith(SITE):
        assert link.removeprefix(SITE) in set(pages())


def test_the_text_has_links_to_the_documentation():
    assert sum(link.startswith(SITE) for link in LINKS) > 5
