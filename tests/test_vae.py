import copy
import io
import pickle
import subprocess
import sys
import threading
from itertools import product

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import standardise
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, EpochScoring
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from skgvae import (
    GaussianVAE,
    GaussianVAEClassifier,
    GaussianVAERegressor,
    PosteriorCollapseWarning,
)
from skgvae._recipe import DENSITY, recipe_for
from skgvae._scaling import Standardizer
from skgvae.model_selection import StackedGridSearchCV
from skgvae.nn import NOISE_MODELS, GaussianVAEModule

FAST = {"max_epochs": 5, "hidden_layer_sizes": (8,), "n_draws": 32, "random_state": 0}
# The linear model: the start of training with the standard prior.
START = {"max_epochs": 0, "prior": "standard"}
SHARP = {"min_noise": 1e-3, "columns": "continuous"}


@pytest.fixture(scope="module")
def fitted(iris):
    return GaussianVAE(2, **FAST).fit(iris)


def log_scale(X):
    return np.log(X.std(0)).sum()


# Oracles


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_components", [1, 5])
def test_start_scores_like_factor_analysis(n_components, dtype, cancer):
    X = cancer[:, :12]
    vae = GaussianVAE(n_components, **START, noise="homoscedastic", **SHARP)
    model = FactorAnalysis(n_components, svd_method="lapack").fit(standardise(X))
    expected = model.score_samples(standardise(X)) - log_scale(X)
    scores = vae.fit(X.astype(dtype)).score_samples(X.astype(dtype))
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    np.testing.assert_allclose(vae.elbo(X), expected, atol=0.05)  # by 256 draws


@pytest.mark.parametrize("n_components", [1, 5, 12])
def test_start_scores_like_pca(n_components, cancer):
    X = cancer[:, :12]
    vae = GaussianVAE(n_components, **START, noise="isotropic", **SHARP).fit(X)
    n_components = min(n_components, 11)  # 12 of 12 components leave no noise
    model = PCA(n_components, svd_solver="full").fit(standardise(X))
    expected = model.score_samples(standardise(X)) - log_scale(X)
    np.testing.assert_allclose(vae.score_samples(X), expected, atol=1e-3)


def test_start_is_the_same_for_heteroscedastic_noise(cancer):
    X = cancer[:, :12]
    a, b = (
        GaussianVAE(4, noise=noise, min_noise=1e-3, max_epochs=0, random_state=0).fit(X)
        for noise in ("homoscedastic", "heteroscedastic")
    )
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), atol=1e-3)


@pytest.mark.parametrize("noise", ["homoscedastic", "heteroscedastic"])
def test_known_factor_model_is_recovered(noise, factor_data, seed):
    loadings, noise_variance, X, X_test = factor_data
    truth = multivariate_normal(np.full(6, 5.0), loadings @ loadings.T + np.diag(noise_variance))
    vae = GaussianVAE(2, noise=noise, n_estimators=1, random_state=seed).fit(X)
    assert vae.score(X_test) == pytest.approx(truth.logpdf(X_test).mean(), abs=0.1)
    # The maximum of the likelihood is 14 % off itself in one column.
    np.testing.assert_allclose(vae.noise_variance_, noise_variance, rtol=0.35)
    assert vae.n_active_components_ == 2
    # The posterior covariance of z is known too: (I + W' Psi^-1 W)^-1, up to rotation.
    _, std = vae.encode(X_test, return_std=True)
    precision = np.linalg.eigvalsh(np.eye(2) + loadings.T / noise_variance @ loadings)
    np.testing.assert_allclose(np.sort((1 / std**2).mean(0)), precision, rtol=0.25)


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_noise_that_depends_on_the_latent_is_found(seed):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, 4000)
    std = np.where(t > 0, 0.5, 0.05)
    columns = [t + 0.02 * rng.standard_normal(4000), std * rng.standard_normal(4000)]
    X = np.column_stack(columns)
    one = {"n_estimators": 1, "random_state": seed}  # a mixture of several has noise of its own
    vae = GaussianVAE(1, **one).fit(X)
    _, found = vae.reconstruct(np.array([[-1.0, 0.0], [1.0, 0.0]]), return_std=True)
    np.testing.assert_allclose(found[:, 1], [0.05, 0.5], rtol=0.25)
    same = GaussianVAE(1, noise="homoscedastic", **one).fit(X)
    assert vae.score(X) > same.score(X) + 0.1
    true = -np.log(4) - np.log(std).mean() - 0.5 * np.log(2 * np.pi * np.e)  # without the 0.02
    assert vae.score(X) > true - 0.1


def test_start_of_very_many_rows_is_that_of_every_second(iris, monkeypatch):
    start = GaussianVAE(2, random_state=0, **START)
    every_second = clone(start).fit(iris[::2]).score_samples(iris)
    assert np.abs(clone(start).fit(iris).score_samples(iris) - every_second).max() > 0.01
    monkeypatch.setattr("skgvae._vae.MAX_ROWS", 75)
    found = clone(start).fit(iris).score_samples(iris)
    np.testing.assert_allclose(found, every_second, atol=1e-3)  # Monte Carlo


@pytest.mark.parametrize(("prior", "model"), [(2, GaussianMixture), ("standard", FactorAnalysis)])
def test_start_keeps_blas_to_one_thread(prior, model, iris, monkeypatch):
    seen, fit = [], model.fit

    def count_threads():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    def set_limits(limits):
        # By a thread that ends: one that goes on could alone change them again.
        thread = threading.Thread(target=threadpool_limits, args=(limits, "blas"))
        thread.start()
        thread.join()

    def spy(self, X, y=None):
        seen.append(count_threads())
        return fit(self, X, y)

    monkeypatch.setattr(model, "fit", spy)
    vae = GaussianVAE(2, prior=prior, max_epochs=1)
    alone, search = clone(vae), StackedGridSearchCV(vae, {"kl_weight": [1.0]}, cv=2, refit=False)
    before = threadpool_info()
    set_limits(2)
    try:
        if count_threads() != {2}:
            pytest.skip("the number of BLAS' threads cannot be set here")
        for estimator in (alone, search):
            estimator.fit(iris)
            assert count_threads() == {2}  # the limit ends with the start
    finally:
        set_limits(before)
    assert len(seen) > 2
    assert all(threads == {1} for threads in seen)


def test_validation_bound_never_below_the_start(cancer):
    vae = GaussianVAE(random_state=0, lr=1.0, max_epochs=3).fit(cancer)
    assert vae.best_epoch_ == 0
    rows = slice(0, 300)
    assert vae.score(cancer[rows]) > FactorAnalysis(5).fit(cancer).score(cancer[rows])


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_no_density_above_the_bound_of_the_floor(noise):
    X = np.repeat(
        np.random.default_rng(0).standard_normal((5, 4)), 20, axis=0
    )  # five points: without a floor, infinite density
    params = {"n_estimators": 1, "max_epochs": 400, "validation_fraction": None}
    vae = GaussianVAE(2, noise=noise, min_noise=0.05, random_state=0, **params).fit(X)
    bound = -4 * np.log(np.sqrt(2 * np.pi) * 0.05) - log_scale(X)
    scores = vae.score_samples(X)
    assert scores.max() <= bound + 1e-4
    assert scores.max() > bound - 8  # the bound is near: the test could fail


# Units


@pytest.mark.parametrize("factor", [4.0, 2.0**-20])
def test_scores_shift_exactly_with_a_power_of_two(factor, iris):
    a = GaussianVAE(2, **FAST, columns="continuous").fit(iris)
    b = GaussianVAE(2, **FAST, columns="continuous").fit(iris * factor)
    shift = 4 * np.log(factor)
    np.testing.assert_allclose(
        b.score_samples(iris * factor), a.score_samples(iris) - shift, rtol=1e-12
    )
    np.testing.assert_array_equal(b.transform(iris * factor), a.transform(iris))


def test_scores_shift_with_any_affine_change(iris):
    X = -3.7 * iris + 11
    a = GaussianVAE(2, **START, min_noise=0.1, columns="continuous").fit(iris)
    b = GaussianVAE(2, **START, min_noise=0.1, columns="continuous").fit(X)
    np.testing.assert_allclose(
        b.score_samples(X), a.score_samples(iris) - 4 * np.log(3.7), atol=2e-3
    )


def test_outputs_are_in_the_units_of_the_input(iris):
    scale, offset = np.array([1e-9, 1.0, 1e9, 1e3]), np.array([0, -5, 1e9, 0])
    X = iris * scale + offset
    vae = GaussianVAE(4, random_state=0).fit(X)
    mean, std = vae.reconstruct(X, return_std=True)
    z_scores = (X - mean) / std
    assert np.abs(z_scores.mean(0)).max() < 0.3
    assert np.all((z_scores.std(0) > 0.2) & (z_scores.std(0) < 1.6))
    draws = vae.sample(4000, random_state=0)
    assert np.all(np.abs(draws.mean(0) - X.mean(0)) < 0.15 * X.std(0))
    np.testing.assert_allclose(draws.std(0), X.std(0), rtol=0.25)
    assert np.all(vae.noise_variance_ < X.var(0))
    assert np.all(np.abs(vae.decode(vae.transform(X)) - mean) < 0.5 * X.std(0))


def test_reconstruction_agrees_with_draws_from_the_posterior(iris):
    # Of several models it is that of their mixture, where encode and decode are of the first.
    params = FAST | {"n_estimators": 1, "n_draws": 512, "columns": "continuous"}
    fitted = GaussianVAE(2, **params).fit(iris)
    mean, std = fitted.encode(iris[:3], return_std=True)
    rng = np.random.default_rng(0)
    Z = mean[:, None] + std[:, None] * rng.standard_normal((3, 20_000, 2))
    decoded, noise = fitted.decode(Z.reshape(-1, 2), return_std=True)
    decoded, noise = decoded.reshape(3, -1, 4), noise.reshape(3, -1, 4)
    expected = np.sqrt((noise**2).mean(1) + decoded.var(1))
    reconstruction, total = fitted.reconstruct(iris[:3], return_std=True)
    np.testing.assert_allclose(reconstruction, decoded.mean(1), atol=0.02)
    np.testing.assert_allclose(total, expected, rtol=0.03)


def test_grid_noise_stops_spikes():
    digits = load_digits().data[:, 10:14]
    vae = GaussianVAE(2, **FAST, columns="continuous").fit(digits)
    np.testing.assert_allclose(vae.min_noise_, 1 / np.sqrt(12) / digits.std(0))
    assert vae.score(digits) < 0  # counts 0..16: no honest density exceeds that of the grid
    continuous = digits + np.random.default_rng(0).uniform(size=digits.shape)
    np.testing.assert_array_equal(GaussianVAE(2, **FAST).fit(continuous).min_noise_, 0.003)


# Difficult data


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda rng: rng.standard_normal((200, 3)) * [1e-9, 1, 1e9],
        lambda rng: np.column_stack([rng.standard_normal((200, 2)), np.full(200, 7.0)]),
        lambda rng: np.full((40, 3), 2.5),
        lambda rng: rng.standard_normal((30, 4)),
        lambda rng: rng.standard_normal((5, 4)),
        lambda rng: rng.standard_normal((2, 4)),
        lambda rng: rng.standard_normal((100, 1)),
        lambda rng: np.repeat(rng.standard_normal((10, 3)), 20, axis=0),
        lambda rng: np.repeat(rng.standard_normal((100, 1)), 4, axis=1),
        lambda rng: rng.standard_normal((20, 60)),
        lambda rng: rng.standard_cauchy((300, 3)),
        lambda rng: np.concatenate([rng.standard_normal((300, 3)), [[1e12, 0, 0]]]),
        lambda rng: 1e9 + rng.standard_normal((200, 3)),
        lambda rng: rng.integers(0, 2, (200, 5)).astype(float),
    ],
    ids=[
        "scales",
        "constant column",
        "constant",
        "30 rows",
        "5 rows",
        "2 rows",
        "one column",
        "duplicated rows",
        "duplicated columns",
        "wide",
        "heavy tails",
        "outlier",
        "offset",
        "binary",
    ],
)
@pytest.mark.filterwarnings("ignore:. rows or groups are too few:UserWarning")
def test_difficult_data_give_finite_answers(make):
    X = make(np.random.default_rng(0))
    vae = GaussianVAE(random_state=0, max_epochs=30).fit(X)
    for answer in (
        vae.score_samples(X),
        vae.elbo(X),
        *vae.encode(X, return_std=True),
        *vae.reconstruct(X, return_std=True),
        vae.sample(10, random_state=0),
        vae.noise_variance_,
    ):
        assert np.isfinite(answer).all()
    assert np.all(vae.noise_variance_ > 0)


def test_a_constant_column_does_not_dominate(iris):
    iris = iris - 3 + np.random.default_rng(0).uniform(-0.05, 0.05, iris.shape)
    X = np.column_stack([iris, np.full(len(iris), 3.0)])
    a, b = (GaussianVAE(2, max_epochs=40, random_state=0).fit(data) for data in (iris, X))
    gain = b.score(X) - a.score(iris)
    assert gain < -np.log(np.sqrt(2 * np.pi) * 0.01) + 0.5  # what a perfect column is worth
    np.testing.assert_allclose(b.reconstruct(X)[:, 4], 3.0, atol=0.1)
    np.testing.assert_array_equal(b.min_noise_, [0.003] * 4 + [0.01])


def test_collapse_is_said_once():
    X = np.random.default_rng(0).standard_normal((500, 3))
    with pytest.warns(PosteriorCollapseWarning, match="Lower kl_weight") as record:
        vae = GaussianVAE(2, kl_weight=50, random_state=0, max_epochs=30).fit(X)
    assert len(record) == 1
    assert vae.n_active_components_ == 0
    assert vae.kl_per_component_.shape == (2,)


@pytest.mark.parametrize("kl_weight", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("n_draws", [1, 4])
def test_no_kl_weight_rewards_divergence(kl_weight, n_draws, iris):
    net_params = {"criterion__n_draws": n_draws}
    settings = {"kl_weight": kl_weight, "net_params": net_params, "max_epochs": 40}
    vae = GaussianVAE(2, random_state=0, **settings).fit(iris)
    assert vae.kl_per_component_.sum() < 30
    assert vae.score(iris) > -25


# Randomness


def test_same_seed_same_fit_and_global_generators_untouched(iris):
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    a, b = (GaussianVAE(2, **FAST).fit(iris) for _ in "ab")
    np.testing.assert_array_equal(a.transform(iris), b.transform(iris))
    np.testing.assert_array_equal(a.score_samples(iris), b.score_samples(iris))
    assert a.history_ == b.history_
    vae = GaussianVAE(2, **{**FAST, "random_state": None}).fit(iris)
    pickle.loads(pickle.dumps(vae)).sample(3)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_seeds_differ(iris):
    seeds = (1, 2, None, None)
    fits = [GaussianVAE(2, **{**FAST, "random_state": s}).fit(iris) for s in seeds]
    scores = [vae.score(iris) for vae in fits]
    assert len(set(scores)) == 4


def test_random_state_instance_moves_on(iris):
    rng = np.random.RandomState(0)
    a, b = (GaussianVAE(2, **{**FAST, "random_state": rng}).fit(iris) for _ in "ab")
    assert a.score(iris) != b.score(iris)


def test_sample_is_fresh_without_and_repeatable_with_a_seed(fitted):
    assert not np.array_equal(fitted.sample(5), fitted.sample(5))
    a, b = fitted.sample(5, random_state=3), fitted.sample(5, random_state=3)
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="n_samples == 0"):
        fitted.sample(0)


def test_result_does_not_depend_on_n_jobs(iris):
    grid = {"n_components": [1, 2], "kl_weight": [0.5, 1.0]}
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(GaussianVAE(**FAST), grid, cv=2, n_jobs=n_jobs).fit(iris)
        results.append(search.cv_results_["mean_test_score"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


# Weights


def test_unit_weights_change_nothing(iris):
    a = GaussianVAE(2, **FAST).fit(iris)
    b = GaussianVAE(2, **FAST).fit(iris, sample_weight=np.full(150, 3.0))
    np.testing.assert_allclose(a.transform(iris), b.transform(iris), atol=1e-4)


def test_rows_of_weight_zero_are_left_out(iris):
    X = np.concatenate([iris, 1e6 * np.ones((20, 4))])
    weight = np.r_[np.ones(150), np.zeros(20)]
    a = GaussianVAE(2, **FAST).fit(iris, sample_weight=np.ones(150))
    b = GaussianVAE(2, **FAST).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(a.transform(iris), b.transform(iris))


def test_one_heavy_row_keeps_training_sound(cancer):
    weight = np.full(len(cancer), 1e-2)
    weight[:4], weight[0] = 1, 50
    vae = GaussianVAE(5, noise="homoscedastic", max_epochs=20, random_state=0)
    vae.fit(cancer, sample_weight=weight)
    assert np.isfinite(vae.score(cancer))
    assert np.all(vae.noise_variance_ > 0)


def test_weights_have_mean_one_in_each_part(cancer):
    means = []

    class Look(Callback):
        def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
            for rows in dataset_train, dataset_valid:
                weight = rows.take(torch.arange(len(rows))[None]).weight
                means.append(weight.mean().item())

    weight = np.ones(len(cancer))
    weight[:3] = 200
    params = {"n_estimators": 1, "max_epochs": 1, "net_params": {"callbacks": [Look()]}}
    GaussianVAE(2, **params, random_state=0).fit(cancer, sample_weight=weight)
    assert means == pytest.approx([1, 1], rel=1e-5)


def test_weights_equal_repeated_rows_in_expectation(iris):
    weight = np.r_[np.full(50, 3), np.ones(100)].astype(int)
    repeated = np.repeat(iris, weight, axis=0)
    settings = {"n_components": 2, "prior": 3, "n_estimators": 1}
    settings |= {"validation_fraction": None, "max_epochs": 40}
    a, b = [], []
    for seed in range(4):
        vae = GaussianVAE(**settings, batch_size=30, random_state=seed)
        a.append(vae.fit(iris, sample_weight=weight).score(repeated))
        b.append(clone(vae).set_params(batch_size=50).fit(repeated).score(repeated))
    unweighted = GaussianVAE(**settings, batch_size=30, random_state=0).fit(iris).score(repeated)
    assert np.mean(a) == pytest.approx(np.mean(b), abs=0.15)
    assert unweighted < np.mean(a)


def test_start_with_weights_is_that_of_repeated_rows(cancer):
    X = cancer[:, :8]
    weight = np.arange(len(X)) % 3
    start = GaussianVAE(3, **START, min_noise=1e-3)
    weighted = clone(start).fit(X, sample_weight=weight).score(X)
    repeated = clone(start).fit(np.repeat(X, weight, axis=0)).score(X)
    assert weighted == pytest.approx(repeated, abs=1e-3)
    assert abs(weighted - clone(start).fit(X).score(X)) > 0.01


# Containers


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dtype_is_kept(dtype, iris):
    X = iris.astype(dtype)
    vae = GaussianVAE(2, **FAST).fit(X)
    for answer in (
        *vae.encode(X, return_std=True),
        *vae.decode(vae.transform(X), return_std=True),
        *vae.reconstruct(X, return_std=True),
        vae.inverse_transform(vae.transform(X)),
        vae.score_samples(X),
        vae.elbo(X),
        vae.sample(3),
    ):
        assert answer.dtype == dtype


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames(frame, fitted, iris):
    names = list("abcd")
    X = frame(dict(zip(names, iris.T, strict=True)))
    vae = GaussianVAE(2, **FAST).fit(X)
    assert list(vae.feature_names_in_) == names
    np.testing.assert_allclose(vae.transform(X), fitted.transform(iris), rtol=1e-6)
    kind = "pandas" if frame is pd.DataFrame else "polars"
    Z = vae.set_output(transform=kind).transform(X)
    assert isinstance(Z, frame)
    assert list(Z.columns) == ["gaussianvae0", "gaussianvae1"]
    assert list(vae.get_feature_names_out()) == list(Z.columns)


def test_decode_accepts_any_view(fitted, iris):
    Z = fitted.transform(iris)
    expected = fitted.decode(Z)
    np.testing.assert_allclose(fitted.decode(Z[::-1])[::-1], expected)
    np.testing.assert_allclose(fitted.decode(np.asfortranarray(Z)), expected)
    Z.setflags(write=False)
    np.testing.assert_allclose(fitted.inverse_transform(Z), expected)


def test_input_is_not_changed_and_may_be_read_only_or_strided(iris, fitted):
    X = np.asfortranarray(iris)
    before = X.copy()
    X.setflags(write=False)
    vae = GaussianVAE(2, **FAST).fit(X)
    np.testing.assert_allclose(vae.transform(X), fitted.transform(iris), rtol=1e-6)
    strided = np.repeat(np.repeat(iris, 2, 0), 2, 1)[::2, ::2]
    np.testing.assert_allclose(vae.transform(strided), fitted.transform(iris), rtol=1e-6)
    np.testing.assert_array_equal(X, before)


def test_answers_do_not_depend_on_other_rows(fitted, iris):
    np.testing.assert_allclose(
        fitted.score_samples(iris)[7:9], fitted.score_samples(iris[7:9]), rtol=1e-10
    )
    many = np.tile(iris, (20, 1))  # more than one chunk of rows
    np.testing.assert_allclose(
        fitted.score_samples(many), np.tile(fitted.score_samples(iris), 20), rtol=1e-10
    )


@pytest.mark.parametrize("fraction", [None, "auto", 0.3])
def test_as_many_epochs_as_asked_for(fraction, iris):
    vae = GaussianVAE(2, **FAST, validation_fraction=fraction).fit(iris)
    assert vae.n_epochs_ == len(vae.history_) == 5
    assert ("valid_loss" in vae.history_[0]) == (fraction is not None)
    if fraction is None:
        assert vae.best_epoch_ == 5  # nothing judges
    vae.set_params(net_params={"max_epochs": 3}).fit(iris)
    assert vae.n_epochs_ == 3


# Continued training


def test_partial_fit_learns_and_keeps_its_units(cancer):
    vae = GaussianVAE(3, n_estimators=1, n_draws=64, random_state=0)
    scores = [vae.partial_fit(cancer).score(cancer)]
    scaling = vae._units.offset.copy()
    for _ in range(15):
        scores.append(vae.partial_fit(cancer[::2]).score(cancer))
    assert scores[-1] > scores[0] + 1
    assert vae.n_epochs_ == len(vae.history_) == 16
    np.testing.assert_array_equal(vae._units.offset, scaling)


def test_partial_fit_goes_on_after_fit_and_after_loading(iris):
    vae = GaussianVAE(2, **FAST).fit(iris)
    before = vae.score(iris)
    loaded = pickle.loads(pickle.dumps(vae))
    for model in (vae, loaded):
        for _ in range(3):
            model.partial_fit(iris)
        assert model.score(iris) > before
    assert len(loaded.history_) == len(vae.history_) == 8
    with pytest.raises(ValueError, match="3 features"):
        vae.partial_fit(iris[:, :3])


def test_continued_training_takes_changed_settings_and_refuses_a_changed_structure(iris):
    vae = GaussianVAE(2, n_estimators=1, **FAST).fit(iris)
    before = vae.transform(iris)
    vae.set_params(lr=1e-12, kl_weight=3.0).partial_fit(iris)
    np.testing.assert_allclose(vae.transform(iris), before, atol=1e-6)
    assert vae.net_.criterion_.kl_weight == 3.0
    for change in ({"n_components": 3}, {"noise": "isotropic"}, {"hidden_layer_sizes": [5]}):
        name = next(iter(change))
        with pytest.raises(ValueError, match=f"{name}=.*warm_start=False"):
            clone_fitted(vae).set_params(**change, warm_start=True).fit(iris)
        with pytest.raises(ValueError, match=f"{name}=.*warm_start=False"):
            clone_fitted(vae).set_params(**change).partial_fit(iris)


def clone_fitted(estimator):
    return pickle.loads(pickle.dumps(estimator))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failed_continuation_leaves_the_model_as_it_was(method, iris):
    class Fails(Callback):
        fails = False

        def on_epoch_end(self, net, **kwargs):
            if self.fails:
                raise RuntimeError("broken")

    callback = Fails()
    params = {"warm_start": True, "net_params": {"callbacks": [callback]}}
    vae = GaussianVAE(2, **FAST, **params).fit(iris)
    before = vae.score(iris)
    callback.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        getattr(vae, method)(iris)
    assert vae.score(iris) == before
    assert len(vae.net_.history) == vae.n_epochs_ == 5
    assert vae.net_.train_split is None


def test_warm_start_continues(iris):
    cold = GaussianVAE(2, **FAST).fit(iris)
    warm = GaussianVAE(2, **FAST, warm_start=True).fit(iris)
    first = warm.score(iris)
    assert first == cold.score(iris)
    assert warm.set_params(max_epochs=60).fit(iris).score(iris) > first
    assert cold.fit(iris).score(iris) == first
    warm.set_params(max_epochs=1)
    with pytest.raises(ValueError, match="expecting 4 features"):
        warm.fit(iris[:, :3])
    assert warm.transform(iris).shape == (150, 2)


# Held-out rows


class Splits(Callback):
    """What a callback sees of the rows of each model."""

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train, self.valid = map(rows_of_each, (dataset_train, dataset_valid))


def rows_of_each(dataset):
    places = torch.arange(len(dataset)).expand(len(dataset.counts), -1)
    v1 = dataset.take(torch.minimum(places, torch.tensor(dataset.counts)[:, None] - 1)).v1
    parts = zip(v1, dataset.counts, strict=True)
    return [set(map(tuple, rows[:n].tolist())) for rows, n in parts]


@pytest.mark.parametrize("n_estimators", [1, 2, 5, 7])
def test_each_model_is_judged_by_rows_that_it_does_not_see(n_estimators, cancer):
    splits = Splits()
    params = {**FAST, "max_epochs": 1, "net_params": {"callbacks": [splits]}}
    vae = GaussianVAE(2, **params, n_estimators=n_estimators).fit(cancer)
    assert len(vae.modules_) == len(splits.train) == n_estimators
    n_folds = recipe_for(*cancer.shape, vae.get_params(), DENSITY).n_folds
    for train, valid in zip(splits.train, splits.valid, strict=True):
        assert not train & valid
        assert len(train) + len(valid) == len(cancer)
        assert len(valid) == pytest.approx(len(cancer) / n_folds, abs=1)
    assert len(set.union(*splits.valid)) == sum(map(len, splits.valid))  # no two hold out the same


@pytest.mark.parametrize(
    "net_params",
    [
        {"gradient_clip": 10.0},
        {"module": GaussianVAEModule},
        {"callbacks": [("splits", Splits())]},
        {"callbacks": "disable"},
    ],
    ids=["default", "module", "callback", "no callbacks"],
)
def test_what_changes_nothing_changes_nothing(net_params, iris, fitted):
    vae = GaussianVAE(2, **FAST, net_params=net_params).fit(iris)
    np.testing.assert_array_equal(vae.score_samples(iris), fitted.score_samples(iris))
    assert vae.history_ == fitted.history_


def test_prior_with_more_components_than_a_fold_has_rows(iris):
    vae = GaussianVAE(2, prior=140, **FAST).fit(iris)
    assert 100 < vae.n_prior_components_ == vae.module_.prior.n_components <= 140
    again = pickle.loads(pickle.dumps(vae))
    assert again.score(iris) == vae.score(iris)


def test_validation_loss_is_the_sum_of_its_parts(iris):
    params = {**FAST, "net_params": {"criterion__n_draws": 1}}
    for record in GaussianVAE(2, kl_weight=0.3, **params).fit(iris).history_:
        expected = record["valid_reconstruction"] + 0.3 * record["valid_kl"]
        assert record["valid_loss"] == pytest.approx(expected, abs=1e-5)


# scikit-learn's tools


def test_grid_search_needs_no_scorer(iris):
    grid = {"gaussianvae__n_components": [1, 2], "gaussianvae__kl_weight": [0.5, 1.0]}
    pipeline = make_pipeline(StandardScaler(), GaussianVAE(**FAST))
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2, error_score="raise").fit(iris)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) == 4
    assert search.best_score_ == scores.max()


def test_latent_features_serve_a_classifier():
    X, y = load_digits(return_X_y=True)
    accuracy = [
        cross_val_score(make_pipeline(reduce, LogisticRegression(max_iter=2000)), X, y, cv=2)
        for reduce in (GaussianVAE(4, n_estimators=1, max_epochs=20, random_state=0), PCA(4))
    ]
    assert np.mean(accuracy[0]) > np.mean(accuracy[1])


def test_fit_transform_equals_fit_then_transform(iris):
    Z = GaussianVAE(2, **FAST).fit_transform(iris)
    np.testing.assert_array_equal(Z, GaussianVAE(2, **FAST).fit(iris).transform(iris))


def test_latents_have_an_order_and_signs_that_refits_share():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((600, 3))
    loadings = np.array([[9.0, 0, 0], [9, 0, 0], [9, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 1]])
    X = factors @ loadings.T + rng.standard_normal((600, 6))
    params = {"prior": "standard", "max_epochs": 20, "n_estimators": 2}
    models = [GaussianVAE(3, random_state=seed, **params).fit(X) for seed in range(3)]
    for model in models:
        Z, kl = model.transform(X), model.kl_per_component_
        assert (np.diff(kl) <= 0).all()
        correlation = np.corrcoef(Z.T, X.T)[:3, 3:]
        strongest = np.abs(correlation).argmax(1)
        assert (correlation[np.arange(3), strongest] > 0).all()
        assert strongest[0] in (0, 1, 2)
        assert strongest[1] in (3, 4)
        np.testing.assert_allclose(
            np.corrcoef(Z.T, models[0].transform(X).T)[[0, 1], [3, 4]], 1, atol=0.02
        )
        # The way back: the reconstruction is decoded from the same latents.
        assert np.corrcoef(model.decode(Z)[:, 0], X[:, 0])[0, 1] > 0.99
        loc, log_scale = model.module_.encoder.loc_and_log_scale(
            torch.from_numpy((X - X.mean(0)) / X.std(0)).float()
        )
        own = np.abs(np.corrcoef(Z.T, loc.detach().numpy().T)[:3, 3:])
        order = own.argmax(1)
        assert sorted(order) == [0, 1, 2]
        _, std = model.encode(X, return_std=True)
        own_std = log_scale.exp().expand_as(loc).detach().numpy()[:, order]
        np.testing.assert_allclose(std, own_std, rtol=1e-3)


def test_passes_over_further_rows_keep_the_order_of_latents(iris):
    model = GaussianVAE(3, **FAST).fit(iris)
    before = model.transform(iris)
    for _ in range(5):
        model.partial_fit(iris)
    after = model.transform(iris)
    assert (np.diag(np.corrcoef(before.T, after.T)[:3, 3:]) > 0.9).all()


def test_a_bar_is_shown_only_when_asked_for(iris, capfd):
    GaussianVAE(2, **FAST).fit(iris)
    assert capfd.readouterr() == ("", "")
    GaussianVAE(2, **FAST, verbose=1).fit(iris)
    assert "5/5" in capfd.readouterr().err


def test_scikit_learn_callbacks_see_every_epoch(iris):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")

    class Counter:
        def __init__(self):
            self.events = []

        def setup(self, estimator, context):
            self.events.append("setup")

        def teardown(self, estimator, context):
            self.events.append("teardown")

        def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
            pass

        def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
            self.events.append(context.task_name)
            if context.task_name == "epoch":
                np.testing.assert_array_equal(X, iris)
                assert fitted_estimator.transform(iris).shape == (150, 2)
                return len(self.events) == 4  # stop after the third epoch
            return False

    counter = Counter()
    assert isinstance(counter, callback.FitCallback)
    vae = GaussianVAE(2, **FAST).set_callbacks(counter).fit(iris)
    assert counter.events == ["setup", "epoch", "epoch", "epoch", "fit", "teardown"]
    assert vae.n_epochs_ == 3
    GaussianVAE(2, **FAST).set_callbacks(callback.ProgressBar()).fit(iris)


def test_callbacks_can_copy_and_ask_the_estimator_in_training(iris):
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring=None)
    vae = GaussianVAE(2, **FAST).set_callbacks(monitor).fit(iris)
    # What is known of the last fit does not meet the next one's modules.
    vae.set_params(n_components=3, n_estimators=2).fit(iris)
    vae.partial_fit(iris)
    assert vae.n_epochs_ == 6


@pytest.mark.parametrize("value", [0.1, -3e7, 1.764e18, 1e30])
@pytest.mark.parametrize("n_rows", [60, 300, 2000])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_column_is_zero_whatever_its_value(value, n_rows, weighted):
    # Its mean, as floats have it, is not its value: by far more than one, where it is large.
    rng = np.random.default_rng(0)
    X = np.c_[np.full(n_rows, value), rng.standard_normal((n_rows, 2))]
    weight = rng.uniform(0.5, 2, n_rows) if weighted else None
    scaler = Standardizer.fit(X, weight)
    assert (scaler.forward(X)[:, 0] == 0).all()
    assert scaler.scale[0] == 1
    assert (scaler.inverse(scaler.forward(X))[:, 0] == value).all()


def test_a_column_that_is_constant_but_for_rounding_is_no_larger_than_others():
    X = 1.764e18 + 1e4 * np.random.default_rng(0).standard_normal((2000, 1))
    scaled = Standardizer.fit(X).forward(X)
    assert scaled.mean() == pytest.approx(0, abs=0.1)
    assert scaled.std() == pytest.approx(1, abs=0.1)
    X = np.tile([[0.1 + 0.2], [0.3]], (50, 1))  # small ones stay small
    assert np.abs(Standardizer.fit(X).forward(X)).max() < 1e-15


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_a_constant_column_says_nothing_whatever_its_value(kind, iris):
    def transformed(value):
        X = np.c_[np.full(len(iris), value), iris]
        return kind(2, **FAST).fit(X, np.arange(len(iris)) % 2).transform(X)

    np.testing.assert_array_equal(transformed(1.764e18), transformed(3.0))


# net_params


def test_net_params_are_applied_last(iris):
    scoring = EpochScoring("r2", lower_is_better=False, name="r2")
    vae = GaussianVAE(
        2,
        **FAST,
        net_params={
            "max_epochs": 2,
            "optimizer": torch.optim.SGD,
            "lr": 1e-4,
            "module__activation": nn.ELU,
            "callbacks": [scoring],
        },
    ).fit(iris)
    assert vae.n_epochs_ == 2
    assert isinstance(vae.net_.optimizer_, torch.optim.SGD)
    assert isinstance(vae.module_.encoder.hidden[1], nn.ELU)
    assert "r2" in vae.history_[-1]


def test_skorch_early_stopping_ends_quietly(iris):
    stop = EarlyStopping(patience=1, threshold=1e9, threshold_mode="abs")
    params = {**FAST, "max_epochs": 50, "net_params": {"callbacks": [stop]}}
    assert GaussianVAE(2, **params).fit(iris).n_epochs_ < 50


@pytest.mark.parametrize(
    ("net_params", "message"),
    [
        ({"module__latent_features": 3}, "latent_features.*n_components"),
        ({1: 2}, r"names of parameters as keys, got \[1\]"),
    ],
)
def test_net_params_that_cannot_be(net_params, message, iris):
    with pytest.raises(ValueError, match=message):
        GaussianVAE(2, **FAST, net_params=net_params).fit(iris)


def test_other_optimizers(iris):
    vae = GaussianVAE(2, **FAST, net_params={"optimizer": torch.optim.Rprop}).fit(iris)
    assert np.isfinite(vae.score(iris))


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")  # of the start
@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_a_network_without_linear_paths_starts_at_random(prior, iris):
    params = {"max_epochs": 60, "net_params": {"module__linear": False}, "random_state": 0}
    vae = GaussianVAE(2, prior=prior, **params).fit(iris)
    start = clone(vae).set_params(max_epochs=0).fit(iris)
    assert vae.score(iris) > start.score(iris) + 1
    assert vae.n_prior_components_ == getattr(vae.module_.prior, "n_components", 1)


def test_another_default_dtype_of_torch(iris, float64):
    vae = GaussianVAE(2, **FAST).fit(iris)
    assert next(vae.module_.parameters()).dtype == torch.float32
    np.testing.assert_array_equal(clone_fitted(vae).transform(iris), vae.transform(iris))


def test_the_module_itself_can_be_replaced(iris):
    vae = GaussianVAE(2, **FAST, net_params={"module": Doubled}).fit(iris)
    assert isinstance(vae.module_, Doubled)
    loaded = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(loaded.transform(iris), vae.transform(iris))


class Doubled(GaussianVAEModule):
    pass


# State


def test_pickles_are_arrays_and_small(iris, fitted):
    for copied in (
        pickle.loads(pickle.dumps(fitted)),
        copy.deepcopy(fitted),
        joblib_round_trip(fitted),
    ):
        np.testing.assert_array_equal(copied.transform(iris), fitted.transform(iris))
        np.testing.assert_array_equal(copied.score_samples(iris), fitted.score_samples(iris))
        assert copied.history_ == fitted.history_
    state = fitted.__getstate__()
    assert not any(isinstance(v, (torch.Tensor, nn.Module)) for v in state.values())
    n_bytes = sum(w.nbytes for w in state["_weights"].values())
    assert len(pickle.dumps(fitted)) < 2 * n_bytes + 20_000


def joblib_round_trip(estimator):
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def test_no_rows_remain_in_a_fitted_model(iris):
    X = iris + np.pi * 1e-3 * np.arange(4)
    vae = GaussianVAE(2, **FAST).fit(X)
    data = pickle.dumps(vae)
    standardised = vae._units.forward(X, np.float32)
    assert vae.net_.train_split is None
    for row in (X[3], X[3].astype(np.float32), standardised[3]):
        assert row.tobytes() not in data


def test_loads_in_another_process_with_changed_parameters(tmp_path, iris, fitted):
    vae = copy.deepcopy(fitted).set_params(hidden_layer_sizes=(99,), n_components=3)
    joblib.dump((vae, iris, fitted.transform(iris)), tmp_path / "model")
    code = (
        "import sys, joblib, numpy as np; vae, X, Z = joblib.load(sys.argv[1]);"
        "np.testing.assert_allclose(vae.transform(X), Z, rtol=1e-12)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=True)


def test_a_model_from_cuda_loads_without_it(iris, fitted):
    state = fitted.__getstate__()
    state.update(device="cuda", device_="cuda:0")
    loaded = GaussianVAE.__new__(GaussianVAE)
    loaded.__setstate__(state)
    assert loaded.device_ == ("cuda" if torch.cuda.is_available() else "cpu")
    np.testing.assert_allclose(loaded.transform(iris), fitted.transform(iris), rtol=1e-6)


def test_unfitted_estimators_pickle(iris):
    vae = pickle.loads(pickle.dumps(GaussianVAE(2, **FAST)))
    assert vae.fit(iris).n_components_ == 2


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": 0}, "'n_components' parameter"),
        ({"kl_weight": -1}, "'kl_weight' parameter.*Got -1"),
        ({"noise": "pink"}, "'noise' parameter.*'pink'"),
        ({"min_noise": 0.0}, "'min_noise' parameter"),
        ({"min_noise": 200.0}, "min_noise=200.0 is out of proportion"),
        ({"activation": "softmax"}, "'activation' parameter"),
        ({"validation_fraction": 0.6}, "'validation_fraction' parameter"),
        ({"prior": "best"}, "'prior' parameter"),
        ({"max_epochs": -1}, "'max_epochs' parameter"),
        ({"lr": "fast"}, "'lr' parameter"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must hold integers from 1 on"),
        ({"net_params": [1]}, "'net_params' parameter"),
        ({"device": "gpu"}, "device='gpu'"),
    ],
)
def test_bad_parameters(params, message, iris):
    with pytest.raises(ValueError, match=message):
        GaussianVAE(**params).fit(iris)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: np.full_like(X, np.nan), "No cell of X is known"),
        (lambda X: np.where(X[0, 0] == X, np.inf, X), "contains infinity"),
        (lambda X: np.char.add(np.arange(150).astype(str), "a")[:, None], "150 names"),
        (lambda X: X.astype(complex), "Complex data not supported"),
        (lambda X: sparse.csr_matrix(X), "Sparse data was passed"),
        (lambda X: X[:, 0], "Expected 2D array"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:1], "1 sample"),
    ],
)
def test_bad_rows_never_harm_a_fitted_model(change, message, iris):
    vae = GaussianVAE(2, **FAST).fit(pd.DataFrame(iris, columns=list("abcd")))
    before = vae.transform(pd.DataFrame(iris, columns=list("abcd")))
    with pytest.raises((ValueError, TypeError), match=message):
        vae.fit(change(iris))
    assert list(vae.feature_names_in_) == list("abcd")
    after = vae.transform(pd.DataFrame(iris, columns=list("abcd")))
    np.testing.assert_array_equal(before, after)


def test_wrong_width_is_named(fitted, iris):
    with pytest.raises(ValueError, match="3 features, but GaussianVAE is expecting 4"):
        fitted.transform(iris[:, :3])
    with pytest.raises(ValueError, match="Z has 3 columns, but the latent space has 2"):
        fitted.decode(iris[:, :3])


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_bad_weights(weight, iris):
    weights = np.ones(150)
    weights[3] = weight
    with pytest.raises(ValueError, match=r"[Ww]eight"):
        GaussianVAE(2, **FAST).fit(iris, sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight is positive for 1 rows"):
        GaussianVAE(2, **FAST).fit(iris, sample_weight=np.eye(150)[0])


def test_weights_that_are_zero_beside_the_largest(iris):
    weights = np.r_[np.ones(100), np.full(50, 1e-50)]
    vae = GaussianVAE(2, **FAST).fit(iris, sample_weight=weights)
    same = GaussianVAE(2, **FAST).fit(iris, sample_weight=np.r_[np.ones(100), np.zeros(50)])
    np.testing.assert_array_equal(vae.transform(iris), same.transform(iris))
    with pytest.raises(ValueError, match="sample_weight is positive for 1 rows"):
        GaussianVAE(2, **FAST).fit(iris, sample_weight=np.r_[1.0, np.full(149, 1e-50)])


def test_a_floor_that_float32_does_not_hold(iris):
    with pytest.raises(ValueError, match="min_noise=1e-300 is zero in float32"):
        GaussianVAE(2, min_noise=1e-300, **FAST).fit(iris)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fits_in_any_mode_of_torch(mode, iris):
    known = GaussianVAE(2, **FAST).fit(iris)
    with mode():
        vae = GaussianVAE(2, **FAST).fit(iris)
        np.testing.assert_array_equal(vae.transform(iris), known.transform(iris))
        vae.partial_fit(iris)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_a_learning_rate_far_too_large_leaves_the_start(iris):
    vae = GaussianVAE(2, lr=1e30, validation_fraction=None, max_epochs=5, random_state=0)
    with pytest.warns(RuntimeWarning, match="smaller lr"):
        vae.fit(iris)
    assert np.isfinite(vae.score(iris))


def test_an_error_in_a_callback_leaves_the_estimator_as_it_was(iris):
    def broken(net, X, y):
        raise RuntimeError("broken")

    callbacks = [EpochScoring(broken, name="x", use_caching=False)]
    vae = GaussianVAE(2, **FAST, net_params={"callbacks": callbacks})
    with pytest.raises(RuntimeError, match="broken"):
        vae.fit(iris)
    assert set(vars(vae)) == set(vae.get_params(deep=False))


# Sizes


@pytest.mark.parametrize(
    ("n_components", "hidden", "noise"),
    list(product([1, 6], [(), 5, (6, 5)], NOISE_MODELS)),
)
def test_any_architecture_trains(n_components, hidden, noise, iris):
    vae = GaussianVAE(n_components, hidden_layer_sizes=hidden, noise=noise, max_epochs=3)
    vae.fit(iris)
    assert vae.transform(iris).shape == (150, n_components)
    assert np.isfinite(vae.score(iris))


def test_a_variance_that_overflows_is_refused(iris):
    for rows in (iris.copy(), iris[:2].copy()):
        rows[0, 0] = 1e300
        with pytest.raises(ValueError, match="variance is not finite"):
            GaussianVAE(**FAST).fit(rows)


@pytest.mark.parametrize("shape", [(100, 7), (400, 50), (20, 50), (3, 4)])
def test_default_width_of_the_latent_space(shape):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((shape[0], 1)) + 0.1 * rng.standard_normal(shape)
    vae = GaussianVAE(max_epochs=0, random_state=0).fit(X)
    expected = recipe_for(*shape, vae.get_params(), DENSITY).n_components
    assert vae.n_components_ == vae.transform(X).shape[1] == expected <= shape[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("n_draws", [1, 4])
def test_cuda(n_draws, iris):
    params = {**FAST, "net_params": {"criterion__n_draws": n_draws}}
    vae = GaussianVAE(2, **params).fit(iris)
    assert vae.device_ == "cuda"
    assert next(vae.module_.parameters()).is_cuda
    on_cpu = GaussianVAE(2, **params, device="cpu").fit(iris)
    assert vae.score(iris) == pytest.approx(on_cpu.score(iris), abs=0.5)
    loaded = pickle.loads(pickle.dumps(vae))
    np.testing.assert_allclose(loaded.transform(iris), vae.transform(iris), atol=1e-5)


def test_answers_have_the_precision_of_the_rows_asked_for(iris):
    for fitted_with in (np.float32, np.float64):
        vae = GaussianVAE(max_epochs=2, random_state=0).fit(iris.astype(fitted_with))
        for dtype in (np.float32, np.float64):
            rows = iris.astype(dtype)
            Z = vae.transform(rows)
            answers = (Z, *vae.reconstruct(rows, return_std=True), *vae.decode(Z, True))
            assert {answer.dtype for answer in answers} == {np.dtype(dtype)}
