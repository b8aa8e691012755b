import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.datasets import load_digits

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PRINTED = {
    "short": "median of",
    "epochs": "| hand-written loop |",
    "quality": "| 1000 × 8 |",
    "memory": "| 20000 × 64 |",
    "growth": "| slope |",
    "stack": "| 2 |",
}


def run(script, *args):
    command = [sys.executable, str(BENCHMARKS / script), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_kernel_density_is_its_formula_in_many_columns(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    kernel_density = importlib.import_module("density_models").kernel_density
    X = load_digits().data[:400] / 6.0
    train, test = X[:300], X[300:]
    log_density, found = kernel_density(train, np.arange(300), seed=0)
    h = found["params"]["bandwidth"]
    log_kernels = -0.5 * cdist(test, train, "sqeuclidean") / h**2
    log_peak = -X.shape[1] * np.log(h * np.sqrt(2 * np.pi)) - np.log(300)
    np.testing.assert_allclose(log_density(test), logsumexp(log_kernels, 1) + log_peak)


@pytest.mark.slow
@pytest.mark.parametrize("part", PRINTED)
def test_speed_prints_its_tables(part):
    printed = run("speed.py", "--small", "--part", part)
    assert PRINTED[part] in printed
    assert "failed" not in printed  # as measurements in processes of their own may


@pytest.mark.slow
def test_search_prints_its_table():
    options = ["--latents", "2", "--epochs", "1", "--jobs", "1"]
    printed = run("search.py", "--sets", "breast_cancer", *options)
    assert "| StackedGridSearchCV(n_jobs=1) |" in printed
    assert "| GridSearchCV(n_jobs=1) |" in printed
