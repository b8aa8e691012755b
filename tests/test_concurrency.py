"""Fits and predictions side by side are those one after the other, and leave nothing behind."""

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from skorch.callbacks import Callback
from torch import nn

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
    jobs = [(kind, seed) for kind in BY_ROWS for seed in range(2)]
    in_turn = [fit_transform(*job, *rows) for job in jobs]
    parallel = Parallel(n_jobs=2, backend=backend)
    for a, b in zip(
        in_turn, parallel(delayed(fit_transform)(*j, *rows) for j in jobs), strict=True
    ):
        np.testing.assert_array_equal(a, b)


class WithDropout(nn.Module):
    """A user's classifier, which draws from torch's global generator."""

    def __init__(self, in_features, target_features, n_classes):
        super().__init__()
        self.out = nn.Linear(in_features + target_features, n_classes)

    def forward(self, v1, v2_estimate):
        v = torch.cat([v1, v2_estimate], 1)
        return self.out(nn.functional.dropout(v, 0.5, self.training))


def fit_with_dropout(seed, X, y):
    params = {**FAST, "max_epochs": 5, "n_estimators": 1}
    model = GaussianVAEClassifier(2, classifier=WithDropout, random_state=seed, **params)
    return model.fit(X, y).predict_proba(X)


def test_dropout_side_by_side_equals_dropout_in_turn(rows):
    in_turn = [fit_with_dropout(seed, *rows) for seed in range(4)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(
            in_turn, pool.map(lambda seed: fit_with_dropout(seed, *rows), range(4)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


class NoisySiLU(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(nn.functional.silu(x), 0.2, self.training)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_a_module_that_draws_follows_random_state(kind, rows):
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = kind(
            2, random_state=0, net_params={"module__activation": NoisySiLU}, n_estimators=1, **FAST
        )
        found.append(model.fit(*rows).transform(rows[0]))
    np.testing.assert_array_equal(*found)


class DrawsFromTorch(Callback):
    """Stands for another thread, which draws from torch's global generator during a fit."""

    def __init__(self):
        self.drawn = []

    def on_epoch_end(self, net, **kwargs):
        self.drawn.append(torch.rand(1).item())


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_a_fit_leaves_the_global_generator_to_others(kind, rows):
    other = DrawsFromTorch()
    model = kind(2, random_state=0, net_params={"callbacks": [other]}, **FAST)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(1)).tolist()
    torch.manual_seed(1)
    model.fit(*rows)
    assert other.drawn == expected


BY_ROWS = {
    GaussianVAE: ("transform", "encode", "score_samples", "elbo", "reconstruct"),
    GaussianVAERegressor: ("transform", "encode", "predict", "predict_interval"),
    GaussianVAEClassifier: ("transform", "encode", "predict_proba", "predict_target"),
}


def all_answers(model, X):
    found = [getattr(model, name)(X) for name in BY_ROWS[type(model)]]
    Z = found[0]
    found += [model.decode(Z), model.latent_directions(Z)]
    of_rows = () if isinstance(model, GaussianVAE) else (X,)
    found.append(model.sample(*of_rows, n_samples=5, random_state=0))
    return list(chain.from_iterable(a if isinstance(a, tuple) else [a] for a in found))


@pytest.mark.parametrize("kind", BY_ROWS)
def test_answers_from_several_threads(kind, rows):
    X, y = rows
    model = kind(2, random_state=0, **FAST).fit(X, y)
    known = all_answers(model, X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda i: all_answers(model, X), range(12)):
            for a, b in zip(found, known, strict=True):
                np.testing.assert_array_equal(a, b)


def count_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_repeated_fits_leave_no_tensors(rows):
    before = count_tensors()
    kinds = GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier
    models = [kind(2, random_state=0, **FAST).fit(*rows) for kind in kinds]
    fitted = count_tensors()
    for model in models * 3:
        model.fit(*rows)
    assert before < fitted == count_tensors()
    del model, models
    assert count_tensors() == before


def resident_memory():
    # Now, not at its peak, which other tests may have set.
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the memory")
@pytest.mark.parametrize("kind", BY_ROWS)
def test_the_memory_of_200_fits_is_flat(kind, rows):
    model, curve = kind(2, random_state=0, **FAST), []
    for _ in range(200):
        model.fit(*rows)
        curve.append(resident_memory())
    assert curve[-1] < 1.05 * curve[20]
