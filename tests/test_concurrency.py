"""Fits and predictions side by side are those one after the other, and leave nothing behind."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

pytestmark = pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")

FAST = {"hidden_layer_sizes": (8,), "n_draws": 8, "max_epochs": 2}


@pytest.fixture(scope="module")
def rows():
    X = np.random.default_rng(0).standard_normal((80, 3))
    return X, (X[:, 0] > 0).astype(int)


def fit_transform(kind, seed, X, y):
    return kind(2, random_state=seed, **FAST).fit(X, y).transform(X)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_fits_side_by_side_equal_fits_in_turn(backend, rows):
    jobs = [(kind, seed) for kind in (GaussianVAE, GaussianVAERegressor) for seed in range(3)]
    in_turn = [fit_transform(*job, *rows) for job in jobs]
    parallel = Parallel(n_jobs=2, backend=backend)
    for a, b in zip(
        in_turn, parallel(delayed(fit_transform)(*j, *rows) for j in jobs), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_predictions_from_several_threads(kind, rows):
    X, y = rows
    model = kind(2, random_state=0, **FAST).fit(X, y)
    method = model.reconstruct if kind is GaussianVAE else model.predict
    known = method(X), model.transform(X)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: (method(X), model.transform(X)), range(20))
        for pair in found:
            for a, b in zip(pair, known, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n_fits", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_repeated_fits_leave_nothing(n_fits, rows):
    model = GaussianVAE(2, random_state=0, **FAST)

    def used():
        model.fit(*rows)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        curve = [used() for _ in range(n_fits)]
    finally:
        tracemalloc.stop()
    assert curve[-1] - curve[n_fits // 4] < 50_000  # bytes: a model alone has more
