"""The architecture, as a test: who imports whom, and what is public."""

import ast
import configparser
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.utils._testing import assert_docstring_consistency

import skgvae

PACKAGE = Path(skgvae.__file__).parent
# From the bottom to the top: a file imports from those before its own rank alone.
RANKS = (
    ("nn.linear", "nn.noise", "_columns", "_rows"),
    ("_mixture", "nn.cells", "objectives"),
    ("nn.gaussian",),
    ("nn.geometry", "nn.prior"),
    ("nn.vae",),
    ("nn.joint",),
    ("nn",),
    ("_stack", "likelihood"),
    ("_optimizer", "_proposals"),
    ("_calibration", "_density"),
    ("_posterior",),
    ("_training", "_progress"),
    ("_random",),
    ("_threads",),
    ("net",),
    ("_folds", "_groups", "_history", "_labels", "_networks", "_recipe", "_scaling"),
    ("_sklearn_callbacks", "_validation"),
    ("_answers", "_start", "_together", "_units"),
    ("_start_incomplete",),
    ("_fit",),
    ("_base",),
    ("_vae", "_regressor", "_classifier"),
    ("_imputer", "_last_step", "_outliers", "model_selection"),
    ("metrics", "display.axes"),
    (
        "display.latent",
        "display.outliers",
        "display.predictive",
        "display.reconstruction",
        "display.training",
    ),
    ("display.traversal",),
    ("display",),
    ("",),  # skgvae itself
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# Rooms that whoever has torch alone can read.
TORCH_ALONE = (
    "nn",
    "objectives",
    "likelihood",
    "_density",
    "_mixture",
    "_optimizer",
    "_posterior",
    "_proposals",
    "_rows",
    "_stack",
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def inner_imports(path):
    """Names of the package's own modules that a file imports."""
    package = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[: len(package) + 1 - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*start, name]) for name in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_imports_run_downward(path):
    own = name_of(path).removesuffix("__init__").removesuffix(".")
    assert [name for name in inner_imports(path) if RANK[name] >= RANK[own]] == []


@pytest.mark.parametrize("room", TORCH_ALONE)
def test_the_torch_layer_needs_torch_alone(room):
    path = PACKAGE / room
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        outer = {name.split(".")[0] for name in imports(file) if name}
        assert outer - sys.stdlib_module_names - {"skgvae"} - inner_roots(file) <= {"torch"}


def inner_roots(path):
    return {
        node.module.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    }


RUNS_CODE = {"eval", "exec", "compile", "__import__"}
OPENS_FILES = {"open", "load", "loads", "Unpickler", "memmap", "fromfile", "save", "dump",
               "dumps", "read_bytes", "read_text", "savetxt", "savez", "tofile", "write_bytes",
               "write_text"}  # fmt: skip
SERIALISES = {"dill", "marshal", "pickle", "shelve"}
REACHES_OUT = {"asyncio", "ftplib", "http", "os", "requests", "shutil", "smtplib", "socket",
               "ssl", "subprocess", "tempfile", "urllib", "webbrowser"}  # fmt: skip


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_no_code_is_run_no_file_is_opened_and_nothing_is_sent(path):
    roots = {name.split(".")[0] for name in imports(path) if name}
    allowed = {"os"} if path.stem == "_threads" else set()  # for a hook after a fork
    assert not roots & (REACHES_OUT | SERIALISES) - allowed
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in RUNS_CODE | OPENS_FILES, ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in OPENS_FILES, ast.unparse(node)


def floors(*extras):
    parser = configparser.ConfigParser()
    parser.read(PACKAGE.parent / "setup.cfg")
    parts = [parser["options"]["install_requires"]]
    parts += [parser["options.extras_require"][extra] for extra in extras]
    return dict(line.split(">=") for part in parts for line in part.split("\n") if ">=" in line)


def versions(name):
    lines = (PACKAGE.parent / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_oldest_versions_that_are_tested_are_the_floors():
    workflow = (PACKAGE.parent / ".github/workflows/ci.yml").read_text()
    tested = versions("constraints-oldest.txt")
    tested["torch"] = re.search("OLDEST_TORCH=(.+)", workflow)[1]
    for name, floor in floors("plot", "test").items():
        assert f"{tested[name]}.".startswith(f"{floor}."), name


def test_pre_commit_has_the_ruff_of_make_lint():
    hooks = (PACKAGE.parent / ".pre-commit-config.yaml").read_text()
    pinned = re.search(r"ruff-pre-commit\s+rev: v(\S+)", hooks)[1]
    assert pinned == versions("constraints.txt")["ruff"]


def test_the_package_holds_no_tests_and_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert not [*PACKAGE.rglob("conftest.py"), *PACKAGE.rglob("test_*.py")]


def test_python_versions_of_the_metadata_are_those_of_ci():
    parser = configparser.ConfigParser()
    parser.read(PACKAGE.parent / "setup.cfg")
    claimed = re.findall(r"Python :: (3\.\d+)", parser["metadata"]["classifiers"])
    workflow = (PACKAGE.parent / ".github/workflows/ci.yml").read_text()
    assert json.loads(re.search(r"python: (\[.+\])", workflow)[1]) == claimed
    assert parser["options"]["python_requires"] == f">={claimed[0]}"


def test_import_is_lean():
    code = "import sys, skgvae.display; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


PUBLIC = sorted(m.name for m in pkgutil.iter_modules([str(PACKAGE)]) if m.name[0] != "_")


def test_submodules_are_imported_when_they_are_asked_for():
    code = f"""
import sys, skgvae
late = {{"skgvae.metrics", "skgvae.model_selection", "skgvae.display", "matplotlib"}}
assert not late & set(sys.modules)
assert set({PUBLIC}) <= set(dir(skgvae))
for name in {PUBLIC}:
    assert getattr(skgvae, name) is sys.modules["skgvae." + name]
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_submodule_that_there_is_not():
    with pytest.raises(AttributeError, match="'skgvae' has no attribute 'metric'"):
        skgvae.metric  # noqa: B018


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("display/*.py")), ids=name_of)
def test_displays_use_what_is_public(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            assert ast.unparse(node.value) in ("self", "cls"), ast.unparse(node)


@pytest.mark.parametrize(
    "module",
    [
        "skgvae",
        "skgvae.nn",
        "skgvae.objectives",
        "skgvae.net",
        "skgvae.likelihood",
        "skgvae._rows",
        "skgvae._training",
        "skgvae._recipe",
        "skgvae.display",
        "skgvae.model_selection",
    ],
)
def test_what_is_public_is_documented(module):
    __import__(module)
    module = sys.modules[module]
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert inspect.getdoc(thing), name


def test_every_parameter_is_documented_and_constrained():
    for name in skgvae.__all__:
        estimator = getattr(skgvae, name)
        if not hasattr(estimator, "_parameter_constraints"):
            continue
        parameters = list(inspect.signature(estimator).parameters)
        assert set(parameters) == set(estimator._parameter_constraints)
        for parameter in parameters:
            assert f"\n    {parameter} : " in estimator.__doc__, parameter


def test_shared_parameters_are_described_alike():
    pytest.importorskip("numpydoc")
    estimators = [skgvae.GaussianVAE, skgvae.GaussianVAERegressor, skgvae.GaussianVAEClassifier]
    shared = set.intersection(*(set(inspect.signature(e).parameters) for e in estimators))
    differ = {"n_components", "kl_weight", "min_noise", "n_estimators", "n_draws"}
    assert len(shared) > 12
    assert_docstring_consistency(estimators, include_params=sorted(shared - differ))
