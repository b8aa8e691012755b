import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris


def pytest_generate_tests(metafunc):
    # SKGVAE_SEEDS=0-4 runs every test of the seed fixture with each of these seeds.
    if "seed" in metafunc.fixturenames:
        first, _, last = os.environ.get("SKGVAE_SEEDS", "0").partition("-")
        metafunc.parametrize("seed", range(int(first), int(last or first) + 1))


def pytest_collection_modifyitems(items):
    """Skip the examples in docstrings of the displays if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        for item in items:
            if item.nodeid.startswith("skgvae/display/"):
                item.add_marker(pytest.mark.skip(reason="needs matplotlib"))


TRIED = {
    "test_torture.py": "odd data",
    "test_faults.py": "faults in training",
    "test_persistence.py": "saved models",
    "test_concurrency.py": "side by side",
}


def pytest_terminal_summary(terminalreporter):
    """Say what was tried of all that may go wrong, and how much of it did."""
    for file, what in TRIED.items():
        passed, failed, errors = (
            sum(report.nodeid.split("::")[0].endswith(file) for report in reports)
            for reports in map(terminalreporter.getreports, ("passed", "failed", "error"))
        )
        failed += errors  # of fixtures
        if passed or failed:
            terminalreporter.write_line(f"{what}: {passed + failed} tried, {failed} failed")


@pytest.fixture(autouse=True)
def _same_generators_in_every_test():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def float64():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(scope="session")
def iris():
    return load_iris().data


@pytest.fixture(scope="session")
def cancer():
    return load_breast_cancer().data


@pytest.fixture(scope="session")
def factor_data():
    """Rows of a known factor model: W, noise variance, training and held-out rows."""
    rng = np.random.default_rng(0)
    n_features, n_factors = 6, 2
    loadings = rng.standard_normal((n_features, n_factors))
    noise_variance = rng.uniform(0.1, 0.6, n_features)

    def draw(n):
        noise = rng.standard_normal((n, n_features)) * np.sqrt(noise_variance)
        return rng.standard_normal((n, n_factors)) @ loadings.T + noise + 5

    return loadings, noise_variance, draw(2000), draw(2000)


def standardise(X):
    return (X - X.mean(0)) / X.std(0)
