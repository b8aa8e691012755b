"""The documentation knows every public name, and its snippets run."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

import skgvae
from skgvae.model_selection import StackedGridSearchCV, StackedRandomizedSearchCV

DOCS = Path(__file__).parents[1] / "docs"
BUILT = {"_build", "auto_examples", "examples", "generated"}
PAGES = [p for p in sorted(DOCS.rglob("*.rst")) if not BUILT & set(p.relative_to(DOCS).parts)]
API = sorted((DOCS / "api").glob("*.rst"))
WITH_SNIPPETS = [page for page in PAGES if ">>> " in page.read_text()]


def public_names():
    rooms = [room.name for room in pkgutil.iter_modules(skgvae.__path__) if room.name[0] != "_"]
    for module in ("skgvae", *(f"skgvae.{room}" for room in rooms)):
        yield from (f"{module}.{name}" for name in importlib.import_module(module).__all__)


def documented_names():
    """Return what stands in the tables of the API pages, and the constants described there."""
    module, in_table, names = None, False, []
    lines = [line for page in API for line in page.read_text().splitlines()]
    for line in lines:
        if found := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.fullmatch(r"(?:\.\. py:data:: | {13})(\w+)", line):
            names.append(f"{module}.{found[1]}")
        elif line.strip():
            in_table = line == ".. autosummary::" or (in_table and line.startswith("   "))
            if in_table and (found := re.fullmatch(r"   (\w+)", line)):
                names.append(f"{module}.{found[1]}")
    return names


def test_api_page_has_every_public_name_once():
    assert sorted(documented_names()) == sorted(public_names())


def test_the_page_for_developers_names_every_file():
    package = Path(skgvae.__file__).parent
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    files = {re.sub("^display/.*", "display/", file) for file in files if "__init__" not in file}
    page = (DOCS / "developer.rst").read_text().split("\nA family of noise\n")[0]
    assert set(re.findall(r"``([\w/]+\.py|display/)``", page)) == files


RECIPES = runpy.run_path(str(DOCS / "recipe_tables.py"))


class Sizes(Callback):
    def on_epoch_begin(self, net, dataset_train, dataset_valid, **kwargs):
        self.judged = dataset_valid.counts


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.stop_training_ = True


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")  # noise may be all there is
@pytest.mark.parametrize("kind", RECIPES["N_DECODED"])
def test_tables_of_auto_say_what_a_fit_does(kind):
    X = np.random.default_rng(0).standard_normal((20, 20))
    y, watch = np.arange(20) % 2, Sizes()
    said = {name: value for name, _, value in RECIPES["table"](kind, rows=[20])}
    judged = "rows that a model does not see, and that judge it"

    alone = kind(n_estimators=1, max_epochs=1, net_params={"callbacks": [watch]}).fit(X, y)
    assert watch.judged == [said[f"{judged}, of a single model"]]
    model = kind(random_state=0, net_params={"callbacks": [watch]}).fit(X, y)
    assert set(watch.judged) == {said[judged]}
    for fitted in (alone, model) if "latent components for 20 columns of X" in said else ():
        assert fitted.n_components_ == said["latent components for 20 columns of X"]
    net = model.net_
    assert len(model.modules_) == said["models"]
    assert net.batch_size == said["rows in a step"]
    assert net.max_epochs == said["passes over the rows, at most"]
    assert net.patience == said["passes without a better one, at most"]
    assert net.lr == said["largest learning rate"]
    assert net.criterion_.n_draws == said["draws of z for a row in a step"]
    assert net.n_valid_draws == said["draws of z for a row that judges"]
    assert net.get_params()["optimizer__orthogonal"] == said["Muon for hidden layers"]


def test_tables_of_auto_have_a_column_for_each_number_of_rows():
    text = RECIPES["tables"](rows=[50, 12_000])
    lines = text.splitlines()
    assert sum(line.startswith(".. list-table::") for line in lines) == 3
    assert lines.count("     - 12\N{NO-BREAK SPACE}000") == 3
    n_rows = sum(line.startswith("   * -") for line in lines)
    assert sum(line.startswith("     -") for line in lines) == 3 * n_rows


def test_tables_of_auto_say_how_rows_with_unknown_cells_are_trained_on():
    X, kind = np.random.default_rng(0).standard_normal((20, 20)), skgvae.GaussianVAE
    X[0, 0] = np.nan
    net = kind(random_state=0, net_params={"callbacks": [Interrupt()]}).fit(X).net_
    said = {name: value for name, _, value in RECIPES["table"](kind, rows=[20])}
    assert net.max_epochs == said["passes over the rows, at most, if X has unknown cells"]
    assert net.criterion_.n_draws == said["draws of z, if X has unknown cells"]


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_snippets_run(page):
    plt = pytest.importorskip("matplotlib.pyplot")
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testfile(str(page), module_relative=False, optionflags=options)
    plt.close("all")
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize(
    "estimator",
    [
        skgvae.GaussianVAE(),
        skgvae.GaussianVAERegressor(),
        skgvae.GaussianVAEClassifier(),
        StackedGridSearchCV(skgvae.GaussianVAE(), {}),
        StackedRandomizedSearchCV(skgvae.GaussianVAE(), {}),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_html_links_to_the_page_of_the_estimator(estimator):
    name = type(estimator).__name__
    (page,) = (page for page in documented_names() if page.endswith(f".{name}"))
    link = f"https://skgvae.readthedocs.io/en/stable/generated/{page}.html"
    assert f'href="{link}"' in estimator._repr_html_()


def test_html_of_a_pipeline_links_to_both_documentations():
    html = make_pipeline(StandardScaler(), skgvae.GaussianVAE())._repr_html_()
    assert "skgvae.GaussianVAE.html" in html
    assert "sklearn.preprocessing.StandardScaler.html" in html


def test_broken_links_and_missing_figures_are_found(tmp_path):
    broken = runpy.run_path(str(DOCS / "check_links.py"))["broken"]
    gallery = tmp_path / "auto_examples"
    gallery.mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top-of-page">a</h1> <a href="#top-of-page">b</a> <a href="https://x.org/y">c</a>'
        '<a href="auto_examples/plot_1.html">d</a>'
    )
    (gallery / "plot_1.html").write_text(
        '<a href="../index.html#nowhere">a</a> <a href="gone.html">b</a> <img src="gone.png">'
    )
    assert sorted(broken(tmp_path)) == [
        "auto_examples/plot_1.html: ../index.html#nowhere has no such anchor",
        "auto_examples/plot_1.html: gone.html does not exist",
        "auto_examples/plot_1.html: gone.png does not exist",
        "auto_examples/plot_1.html: no figure",
    ]
