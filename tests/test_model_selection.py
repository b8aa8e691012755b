"""Searches that train together give what scikit-learn's searches give."""

import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import nullcontext

import joblib
import numpy as np
import pytest
import sklearn
import torch
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback
from torch import nn

from skgvae import (
    GaussianVAE,
    GaussianVAEClassifier,
    GaussianVAERegressor,
    _start,
    _together,
    _vae,
)
from skgvae.metrics import log_likelihood_score
from skgvae.model_selection import StackedGridSearchCV, StackedRandomizedSearchCV

FAST = {"max_epochs": 4, "hidden_layer_sizes": (8,), "n_draws": 32, "random_state": 0}
# The start need not seek how many: that takes the most of a short fit.
FEW_GAUSSIANS = {**FAST, "prior": 2}
ONE = {**FEW_GAUSSIANS, "n_estimators": 1}
CV = KFold(3, shuffle=True, random_state=0)


@pytest.fixture
def stacks(monkeypatch):
    """Return a list of how many fits each stack trained."""
    sizes, train_as_one = [], _together._train_as_one

    def spy(trainings):
        train_as_one(trainings)
        sizes.append(len(trainings))

    monkeypatch.setattr(_together, "_train_as_one", spy)
    return sizes


@pytest.fixture(scope="module")
def wine():
    return load_wine(return_X_y=True)


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:120], y[:120]


def assert_same_search(ours, theirs, rtol=1e-6):
    """Compare all results; by default to what is left of float32 after a short training."""
    assert ours.cv_results_.keys() == theirs.cv_results_.keys()
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for name, values in theirs.cv_results_.items():
        if name.startswith("rank_test_"):  # equal scores have any order
            scores = theirs.cv_results_[name.replace("rank", "mean")]
            ordered = scores[np.argsort(ours.cv_results_[name])]
            assert (np.diff(ordered) <= rtol * (1 + np.abs(ordered[1:]))).all()
        elif "test_" in name or "train_" in name:
            # A standard deviation is a difference of scores, and so is the score of few rows.
            size = np.abs(theirs.cv_results_[name.replace("std_", "mean_")])
            size = size.max() if name.startswith("std_") else 0.0
            np.testing.assert_allclose(
                ours.cv_results_[name], values, rtol=rtol, atol=rtol * size, err_msg=name
            )
    assert ours.multimetric_ == theirs.multimetric_
    for name in ("best_params_", "best_index_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


def search_both(estimator, grid, X, y=None, cv=CV, fit_params=None, rtol=1e-6, **params):
    ours, theirs = (
        search(estimator, grid, cv=cv, **params).fit(X, y, **(fit_params or {}))
        for search in (StackedGridSearchCV, GridSearchCV)
    )
    assert_same_search(ours, theirs, rtol)
    return ours, theirs


# Parity


KL_WEIGHTS = {"kl_weight": [0.1, 0.5, 1.0]}


@pytest.mark.parametrize("n_estimators", [1, 5])
@pytest.mark.parametrize(
    ("model", "scoring"),
    [
        (GaussianVAE(2, **FEW_GAUSSIANS), None),
        (GaussianVAERegressor(**FAST), "neg_mean_squared_error"),
        (GaussianVAERegressor(**FAST), log_likelihood_score),
        (GaussianVAEClassifier(**FAST), "neg_log_loss"),
    ],
    ids=["density", "squared error", "likelihood", "classifier"],
)
def test_scores_are_those_of_grid_search(model, scoring, n_estimators, wine, stacks):
    X, y = wine
    y = X[:, 0] if isinstance(model, GaussianVAERegressor) else y
    model = clone(model).set_params(n_estimators=n_estimators)
    search_both(model, KL_WEIGHTS, X, y, scoring=scoring, return_train_score=True)
    assert sum(stacks) == 9


def test_density_with_other_latent_and_hidden_sizes(iris, stacks):
    grid = {
        "kl_weight": [0.5, 2.0],
        "n_components": [1, 2],
        "hidden_layer_sizes": [(8,), (5, 4)],
    }
    model = GaussianVAE(**ONE)
    ours, theirs = search_both(model, grid, iris, return_train_score=True)
    assert stacks == [6] * 4
    np.testing.assert_array_equal(ours.transform(iris), theirs.transform(iris))
    assert ours.score(iris) == theirs.score(iris)


def test_folds_with_different_numbers_of_prior_components(stacks, monkeypatch):
    monkeypatch.setattr(_start, "NUMBERS_OF_COMPONENTS", (1, 2, 3, 4))
    X = load_breast_cancer().data[:303, :10]
    model = GaussianVAE(4, **FAST, n_estimators=1)
    grid = {"kl_weight": [0.5, 1.0]}
    # Columns that nearly determine each other enlarge what is rounded.
    search_both(model, grid, X, refit=False, rtol=1e-4)
    assert stacks == [6]
    models = fitted_models(grid, X, model)
    numbers = [m.n_prior_components_ for m in models]
    assert len(set(numbers)) > 1  # else the test shows nothing
    assert [m.module_.prior.n_components for m in models] == numbers


@pytest.mark.parametrize("model", ["density", "regressor", "classifier"])
@pytest.mark.filterwarnings("ignore:The scoring .* does not support sample_weight")
def test_folds_that_differ_by_a_row(model, wine, stacks):
    X, y = wine
    X, y = X[:155], y[:155]  # 103 rows to train on, or 104, of which 21 judge the first model
    n_stacks = 1
    if model == "density":
        estimator = GaussianVAE(2, **FEW_GAUSSIANS)
    elif model == "regressor":
        estimator, y, n_stacks = GaussianVAERegressor(**FAST), X[:, 0], 2
    else:
        estimator = GaussianVAEClassifier(validation_fraction=None, **FAST)
    weight = {"sample_weight": np.linspace(1, 2, 155)}
    search_both(estimator, {"kl_weight": [0.1, 0.3]}, X, y, fit_params=weight, refit=False)
    assert len(stacks) == n_stacks
    assert sum(stacks) == 6


def test_fits_of_one_fold_share_their_start(iris, monkeypatch):
    calls, own = [], _start.factor_analysis
    monkeypatch.setattr(_vae, "factor_analysis", lambda *args: calls.append(args) or own(*args))
    model = GaussianVAE(2, prior="standard", **FAST)
    grid = {"kl_weight": [0.5, 1.0, 2.0], "min_noise": [0.01, 0.1]}
    model.fit(iris[:100])
    n_of_one = len(calls)
    search_both(model, grid, iris, refit=False)
    # For each fold, and for each of GridSearchCV's fits.
    assert len(calls) == n_of_one * (1 + 3 + 18)


@pytest.mark.parametrize(
    ("n_fits", "grid"),
    [
        ([24], {"min_noise": [0.01, 0.1], "random_state": [0, 1], "n_draws": [16, 32]}),
        ([6, 6], {"n_estimators": [1, 3], "kl_weight": [0.5, 1.5]}),
        ([6, 6], {"validation_fraction": ["auto", None], "kl_weight": [0.5, 1.5]}),
        ([9], {"prior": [1, 2, "mixture"]}),
        ([3, 3], {"prior": ["standard", 2]}),
        ([3] * 4, {"noise": ["heteroscedastic", "student", "homoscedastic", "isotropic"]}),
        ([3, 3], {"activation": ["silu", "relu"]}),
        (
            [3] * 8,
            {
                "net_params": [{"criterion__n_draws": 1}, {"optimizer__weight_decay": 0.1}],
                "lr": [1e-2, 1e-3],
                "max_epochs": [2, 3],
            },
        ),
        ([3, 3], {"max_epochs": [0, 3]}),
        ([6], {"batch_size": [32], "kl_weight": [0.5, 1.5]}),  # orthogonal steps
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_density_with_other_parameters(n_fits, grid, iris, stacks):
    search_both(GaussianVAE(2, **ONE), grid, iris)
    assert stacks == n_fits


def test_each_latent_size_has_a_stack_of_its_own(iris, stacks):
    search_both(GaussianVAE(**ONE), {"n_components": [3, 1, 2], "kl_weight": [0.5, 1.0]}, iris)
    assert stacks == [6, 6, 6]


def test_regressor(diabetes, stacks):
    grid = {"kl_weight": [0.01, 0.1], "n_estimators": [1, 2], "noise": ["student", "isotropic"]}
    search_both(GaussianVAERegressor(**FAST), grid, *diabetes, return_train_score=True)
    assert stacks == [6] * 4


@pytest.mark.parametrize("labels", ["all", "few"])
def test_classifier(labels, wine, stacks):
    X, y = wine
    y = np.where(np.arange(len(y)) % 4 > 0, -1, y) if labels == "few" else y
    unlabeled = None if labels == "all" else -1
    model = GaussianVAEClassifier(unlabeled=unlabeled, n_estimators=2, **FAST)
    class_weight = {"class_weight": [None, "balanced"]}
    grid = [
        {"vae_weight": [0.0], **class_weight},
        {"vae_weight": [0.5], "kl_weight": [0.05, 0.5], **class_weight},
    ]
    # To the precision of probabilities: a rounded one may tip over a row.
    search_both(model, grid, X, y, scoring="neg_log_loss" if labels == "all" else None)
    assert sorted(stacks) == ([6, 12] if labels == "all" else [2] * 3 + [4] * 3)


def test_last_step_of_a_pipeline(diabetes, stacks):
    model = make_pipeline(StandardScaler(), QuantileTransformer(), GaussianVAERegressor(**FAST))
    grid = {
        "quantiletransformer__n_quantiles": [10, 50],
        "gaussianvaeregressor__kl_weight": [0.01, 0.1],
    }
    ours, _ = search_both(model, grid, *diabetes)
    assert stacks == [12]
    check_is_fitted(ours.best_estimator_)


def test_transformer_in_the_middle_of_a_pipeline(wine, stacks):
    model = make_pipeline(GaussianVAE(**ONE), Ridge())
    grid = {"gaussianvae__n_components": [2, 3], "ridge__alpha": [1.0, 10.0]}
    search_both(model, grid, *wine)
    assert stacks == [6, 6]


def test_inside_a_meta_estimator(diabetes, stacks):
    model = TransformedTargetRegressor(
        GaussianVAERegressor(**FAST), func=np.sqrt, inverse_func=np.square
    )
    search_both(model, {"regressor__kl_weight": [0.01, 0.1]}, *diabetes)
    assert stacks == [6]


def test_a_search_within_a_search(iris, stacks):
    inner = StackedGridSearchCV(GaussianVAE(2, **ONE), {"kl_weight": [0.5, 1.0]}, cv=2)
    scores = cross_val_score(inner, iris, cv=CV)
    plain = GridSearchCV(GaussianVAE(2, **ONE), {"kl_weight": [0.5, 1.0]}, cv=2)
    np.testing.assert_allclose(scores, cross_val_score(plain, iris, cv=CV), rtol=1e-6)
    assert stacks == [4, 4, 4]


def test_random_draws(iris, stacks):
    draws = {"kl_weight": loguniform(0.1, 10), "n_components": [1, 2]}
    params = {"n_iter": 5, "cv": CV, "random_state": 3}
    ours = StackedRandomizedSearchCV(GaussianVAE(**ONE), draws, **params).fit(iris)
    assert_same_search(ours, RandomizedSearchCV(GaussianVAE(**ONE), draws, **params).fit(iris))
    assert sum(stacks) == 15


def test_without_a_seed(iris, stacks):
    search = StackedGridSearchCV(
        GaussianVAE(2, **{**ONE, "random_state": None}), {"kl_weight": [0.5, 1.0]}, cv=2
    )
    scores = [search.fit(iris).cv_results_["mean_test_score"] for _ in range(2)]
    assert np.isfinite(scores).all()
    assert np.all(scores[0] != scores[1])
    assert stacks == [4, 4]


# What scikit-learn's searches can do


@pytest.mark.filterwarnings("ignore:The scoring")
def test_sample_weight_and_groups(iris, stacks):
    groups = np.arange(150) % 5
    fit_params = {"groups": groups, "sample_weight": 1.0 + (groups > 2)}
    grid = {"kl_weight": [0.5, 1.0]}
    search_both(GaussianVAE(2, **ONE), grid, iris, cv=GroupKFold(3), fit_params=fit_params)
    assert sum(stacks) == 6


@pytest.mark.skipif(
    sklearn.__version__.startswith("1.6."),
    reason="GridSearchCV of scikit-learn 1.6 does not route to the score of a Pipeline",
)
def test_routed_metadata(wine, stacks):
    X, y = wine
    with sklearn.config_context(enable_metadata_routing=True):
        model = GaussianVAEClassifier(**FAST).set_fit_request(X_target=True, sample_weight=True)
        model.set_score_request(sample_weight=True)
        fit_params = {"X_target": X[:, 6:], "sample_weight": 1.0 + y}
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipe = make_pipeline(scaler, model)
        grid = {"gaussianvaeclassifier__kl_weight": [0.1, 0.5]}
        ours, _ = search_both(pipe, grid, X[:, :6], y, fit_params=fit_params)
    assert ours.best_estimator_[-1].predict_target(X[:3, :6]).shape == (3, 7)
    assert sum(stacks) == 6


@pytest.mark.parametrize("refit", ["mse", False, lambda results: 1])
def test_several_metrics(refit, diabetes, stacks):
    scoring = {"mse": "neg_mean_squared_error", "r2": "r2"}
    grid = {"kl_weight": [0.01, 0.1]}
    ours, _ = search_both(
        GaussianVAERegressor(**FAST), grid, *diabetes, scoring=scoring, refit=refit
    )
    assert hasattr(ours, "best_estimator_") == bool(refit)
    assert stacks == [6]


def test_a_candidate_that_fails(iris, stacks):
    grid = {"min_noise": [0.05, 1e9], "kl_weight": [0.5, 1.0]}
    params = {"cv": CV, "error_score": -99.0}
    searches = []
    for search in (StackedGridSearchCV, GridSearchCV):
        with pytest.warns(FitFailedWarning, match="min_noise=1000000000.0 is out of proportion"):
            searches.append(search(GaussianVAE(2, **ONE), grid, **params).fit(iris))
    assert_same_search(*searches)
    assert stacks == [6]


def test_errors_are_raised_and_end_what_waits(iris):
    n_threads = threading.active_count()
    grid = {"min_noise": [0.05, 1e9]}
    search = StackedGridSearchCV(GaussianVAE(2, **ONE), grid, cv=CV, error_score="raise")
    with pytest.raises(ValueError, match="out of proportion"):
        search.fit(iris)
    assert threading.active_count() == n_threads
    search.set_params(param_grid={"min_noise": [0.05]}).fit(iris)


def stops_halfway(progress):
    """Stand for a user who presses Ctrl-C: as a schedule it is called in training."""
    if progress > 0.5:
        raise KeyboardInterrupt
    return 1.0


@pytest.mark.parametrize("n_candidates", [1, 2])  # of which one is trained alone
def test_an_interrupt_ends_the_search(n_candidates, iris, stacks):
    n_threads, filters = threading.active_count(), list(warnings.filters)
    model, kl_weights = GaussianVAE(2, **ONE), np.linspace(0.5, 1, n_candidates)
    search = StackedGridSearchCV(model, {"kl_weight": kl_weights}, cv=[next(CV.split(iris))])
    search.set_params(estimator__net_params={"schedule": stops_halfway}, error_score=0.0)
    with pytest.raises(KeyboardInterrupt):
        search.fit(iris)
    assert threading.active_count() == n_threads
    assert list(warnings.filters) == filters
    assert not stacks
    assert not hasattr(search, "cv_results_")
    search.set_params(estimator__net_params=None).fit(iris)
    assert sum(stacks) == (n_candidates if n_candidates > 1 else 0)


class Raises(TransformerMixin, BaseEstimator):
    """A step of a pipeline whose fit may fail."""

    def __init__(self, error=None):
        self.error = error

    def fit(self, X, y=None):
        if self.error is not None:
            raise self.error
        return self

    def transform(self, X):
        return X


@pytest.mark.parametrize(
    "ends", [None, ValueError("broken"), KeyboardInterrupt()], ids=lambda error: repr(error)
)
def test_filters_of_warnings_are_left_as_they_were(ends, iris):
    model = make_pipeline(Raises(), GaussianVAE(2, **ONE))
    grid = {"raises__error": [None, ends], "gaussianvae__kl_weight": [0.5, 1.0]}
    search = StackedGridSearchCV(model, grid, cv=2, error_score="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("always", category=ResourceWarning)
        before = warnings.filters, list(warnings.filters)
        with nullcontext() if ends is None else pytest.raises(type(ends)):
            search.fit(iris)
        assert warnings.filters is before[0]
        assert list(warnings.filters) == before[1]


class Interrupts(TransformerMixin, BaseEstimator):
    """A step of a pipeline while whose fit a user presses Ctrl-C."""

    def fit(self, X, y=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(1.0)  # in which it reaches the search, on a busy machine too
        return self

    def transform(self, X):
        return X


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="not on Windows")
def test_an_interrupt_before_training_leaves_no_thread(iris, stacks):
    n_threads, filters = threading.active_count(), warnings.filters
    model = make_pipeline("passthrough", GaussianVAE(2, **ONE))
    search = StackedGridSearchCV(model, {"passthrough": [None, Interrupts()]}, cv=2)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            search.fit(iris)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert threading.active_count() == n_threads
    assert warnings.filters is filters
    assert stacks == []


def test_failing_scores(iris):
    def score(model, X, y=None):
        raise RuntimeError("no score")

    search = StackedGridSearchCV(GaussianVAE(2, **ONE), {"kl_weight": [1.0]}, scoring=score, cv=2)
    non_finite = pytest.warns(UserWarning, match="non-finite")
    with non_finite, pytest.warns(UserWarning, match="no score"):
        search.fit(iris)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()


def test_a_fit_that_diverges_harms_no_other(iris, stacks):
    grid = {"kl_weight": [0.5, 3e38]}
    model = GaussianVAE(2, prior="standard", **FAST)
    splits = [(np.arange(100), np.arange(100, 150)), (np.arange(50, 150), np.arange(50))]
    found = []
    for search in (StackedGridSearchCV, GridSearchCV):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(search(model, grid, cv=splits, refit=False).fit(iris).cv_results_)
        assert any("not finite" in str(w.message) for w in caught)
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-6)
    assert stacks == [4]


def test_processes(iris):
    grid = {"kl_weight": [0.5, 1.0], "n_components": [1, 2]}
    search_both(GaussianVAE(**ONE), grid, iris, n_jobs=2)


def test_as_an_estimator(iris, diabetes):
    search = StackedGridSearchCV(GaussianVAE(**ONE), {"n_components": [1, 2]}, cv=2)
    assert clone(search).get_params()["param_grid"] == {"n_components": [1, 2]}
    assert "StackedGridSearchCV" in search._repr_html_()
    assert list(search.get_params()) == list(
        GridSearchCV(GaussianVAE(**ONE), {"n_components": [1, 2]}, cv=2).get_params()
    )
    with pytest.raises(NotFittedError):
        check_is_fitted(search)
    with sklearn.config_context(transform_output="pandas"):
        frame = search.fit(iris).transform(iris)
    assert list(frame.columns) == ["gaussianvae0", "gaussianvae1"]
    loaded = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(loaded.transform(iris), search.transform(iris))


def test_fit_times_add_up_to_the_time_of_the_search(iris):
    grid = {"kl_weight": list(np.linspace(0.5, 2, 8))}
    search = StackedGridSearchCV(GaussianVAE(2, **ONE), grid, cv=CV, refit=False)
    start = sklearn.model_selection._search.time.time()
    search.fit(iris)
    total = sklearn.model_selection._search.time.time() - start
    times = search.cv_results_["mean_fit_time"] + search.cv_results_["mean_score_time"]
    assert np.all(search.cv_results_["mean_fit_time"] > 0)
    assert 3 * times.sum() < total


# What cannot share a stack


def test_other_estimators_are_none_of_our_business(diabetes):
    search_both(Ridge(), {"alpha": [0.1, 1.0]}, *diabetes)


def test_our_models_among_others(diabetes, stacks):
    model = make_pipeline(StandardScaler(), GaussianVAERegressor(**FAST))
    model.steps[1] = ("model", model.steps[1][1])
    grid = [{"model": [Ridge()]}, {"model__kl_weight": [0.01, 0.1]}]
    search_both(model, grid, *diabetes)
    assert stacks == [6]


class Watch(Callback):
    def on_epoch_end(self, net, **kwargs):
        pass


class Scores(nn.Module):
    def __init__(self, n_features, n_target_features, n_classes):
        super().__init__()
        self.scores = nn.Linear(n_features + n_target_features, n_classes)
        self.dropout = nn.Dropout(0.2)

    def forward(self, v1, v2):
        return self.scores(self.dropout(torch.cat([v1, v2], 1)))


@pytest.mark.parametrize(
    "params",
    [
        {"net_params": {"callbacks": [Watch()]}},
        {"classifier": Scores},
        {"net_params": {"schedule": lambda progress: 1.0}},
    ],
    ids=["callbacks", "module", "lambda"],
)
def test_fits_that_train_alone(params, wine, stacks):
    model = GaussianVAEClassifier(**params, **FAST)
    before = torch.get_rng_state()
    search_both(model, {"kl_weight": [0.1, 0.5]}, *wine, scoring="neg_log_loss")
    assert torch.equal(torch.get_rng_state(), before)
    assert stacks == []


def test_warm_start_and_other_optimizers(iris, stacks):
    params = {"warm_start": True, "net_params": {"optimizer": torch.optim.SGD, "lr": 1e-3}}
    search_both(GaussianVAE(2, **params, **FEW_GAUSSIANS), {"kl_weight": [0.5, 1.0]}, iris)
    assert stacks == [6]


def test_a_stack_that_fails_is_trained_one_by_one(iris, monkeypatch):
    def fail(trainings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_together, "_train_as_one", fail)
    search_both(GaussianVAE(2, **ONE), {"kl_weight": [0.5, 1.0]}, iris)


# Stacks


@pytest.mark.parametrize(
    ("name", "n_bytes", "sizes"),
    [
        ("step_bytes", 2**28, [4, 4]),  # and one alone
        ("step_bytes", 2**31, []),
        ("held_bytes", 2**28, [5, 4]),
    ],
)
def test_waves_change_nothing(name, n_bytes, sizes, iris, stacks, monkeypatch):
    grid = {"kl_weight": [0.5, 1.0, 2.0]}
    whole = StackedGridSearchCV(GaussianVAE(2, **ONE), grid, cv=CV).fit(iris)
    assert stacks == [9]
    monkeypatch.setattr(_together.Training, name, n_bytes)
    parts = StackedGridSearchCV(GaussianVAE(2, **ONE), grid, cv=CV).fit(iris)
    assert_same_search(parts, whole)
    assert stacks[1:] == sizes


def test_pre_dispatch_limits_a_wave(iris, stacks):
    grid = {"kl_weight": [0.5, 1.0, 2.0]}
    search_both(GaussianVAE(2, **ONE), grid, iris, pre_dispatch=3)
    assert stacks == [3, 3, 3]


def test_the_estimate_of_memory_grows_with_rows_and_weights(iris):
    train_as_one = _together._train_as_one

    def estimate(X, **params):
        seen = []

        def spy(trainings):
            seen.extend(trainings)
            train_as_one(trainings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_together, "_train_as_one", spy)
            params = {"n_estimators": 1, **FAST, **params}
            fits = [GaussianVAE(2, **params).fit] * 2
            _together.run_together((lambda fit=fit: fit(X)) for fit in fits)
        return np.array([seen[0].held_bytes, seen[0].step_bytes])

    small, more_rows = estimate(iris, batch_size=50), estimate(np.vstack([iris] * 10))
    assert more_rows[0] > 5 * small[0]
    assert estimate(iris, batch_size=100)[1] == 2 * small[1]
    assert np.all(estimate(iris, hidden_layer_sizes=(800,), batch_size=50) > 10 * small)


def fitted_models(grid, X, model):
    """Return the models of a search, in the order of its candidates and folds."""
    models = []

    def score(model, X, y=None):
        models.append(model)
        return 0.0

    StackedGridSearchCV(model, grid, cv=CV, scoring=score, refit=False).fit(X)
    return models


# At so high a rate a smaller floor enlarges differences of rounding.
@pytest.mark.parametrize(
    ("fraction", "lr", "min_noise"), [(0.1, 0.02, 0.01), ("auto", 0.01, "auto")]
)
def test_a_model_does_not_depend_on_its_companions(fraction, lr, min_noise, iris, stacks):
    params = {**ONE, "max_epochs": 30, "net_params": {"patience": 3}, "lr": lr}
    params |= {"min_noise": min_noise, "validation_fraction": fraction}
    many = fitted_models({"kl_weight": [0.1, 0.5, 1.0, 2.0]}, iris, GaussianVAE(2, **params))
    few = fitted_models({"kl_weight": [0.5, 1.0]}, iris, GaussianVAE(2, **params))
    assert stacks == [12, 6]
    splits = [train for train, _ in CV.split(iris)]
    for i, model in enumerate(few):
        kl_weight = (0.5, 1.0)[i // 3]
        alone = GaussianVAE(2, kl_weight=kl_weight, **params).fit(iris[splits[i % 3]])
        for other in (many[i + 3], alone):
            assert model.n_epochs_ == other.n_epochs_
            assert model.best_epoch_ == other.best_epoch_
            np.testing.assert_allclose(
                model.encode(iris), other.encode(iris), rtol=1e-2, atol=1e-3
            )
        assert [record.keys() for record in model.history_] == [
            record.keys() for record in alone.history_
        ]
        for name in ("train_loss", "valid_loss", "valid_kl"):
            own, expected = ([record[name] for record in m.history_] for m in (model, alone))
            np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-3)
    assert len({model.n_epochs_ for model in many}) > 1  # else the test shows little


def test_a_model_holds_nothing_of_the_others(iris, stacks):
    one = GaussianVAE(2, **ONE)
    models = fitted_models({"kl_weight": list(np.linspace(0.5, 2, 8))}, iris, one)
    assert stacks == [24]
    alone = clone(one).fit(iris[:100])
    size = len(pickle.dumps(alone))
    for model in models[:3]:
        assert len(pickle.dumps(model)) < size + 1000
        assert model.net_.train_split is None
        storage = model.module_.encoder.loc.weight.untyped_storage()
        assert storage.nbytes() == 4 * model.module_.encoder.loc.weight.numel()
        loaded = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(loaded.encode(iris), model.encode(iris))
        model.partial_fit(iris)


def test_calls_that_train_several_nets_one_after_the_other(iris, stacks):
    def call(seed):
        params = {**ONE, "random_state": seed}
        first = GaussianVAE(2, **params).fit(iris)
        second = GaussianVAE(1, **params).fit(first.transform(iris))
        return second.score(first.transform(iris))

    together = _together.run_together([(lambda seed=seed: call(seed)) for seed in range(3)])
    assert stacks == [3, 3]
    np.testing.assert_allclose(together, [call(seed) for seed in range(3)], rtol=1e-5)


def test_passes_are_trained_alone(iris, stacks):
    # The optimizer goes on in the next pass.
    def call(seed):
        model = GaussianVAE(2, **{**ONE, "random_state": seed})
        return model.partial_fit(iris).partial_fit(iris).transform(iris)

    together = _together.run_together([(lambda seed=seed: call(seed)) for seed in range(3)])
    np.testing.assert_array_equal(together, [call(seed) for seed in range(3)])
    assert stacks == []


# scikit-learn's own search


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("search", [GridSearchCV, StackedGridSearchCV])
def test_backends_of_joblib(search, backend, iris):
    grid = {"kl_weight": [0.5, 1.0], "n_components": [1, 2]}
    plain = GridSearchCV(GaussianVAE(**ONE), grid, cv=CV).fit(iris)
    with joblib.parallel_config(backend=backend):
        found = search(GaussianVAE(**ONE), grid, cv=CV, n_jobs=2).fit(iris)
    assert_same_search(found, plain)


def test_dask(tmp_path):
    pytest.importorskip("distributed")
    # In a process of its own: Dask's threads and warnings outlive a cluster.
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import joblib, numpy as np
            from distributed import Client, LocalCluster
            from sklearn.datasets import load_iris
            from sklearn.model_selection import GridSearchCV
            from skgvae import GaussianVAE
            from skgvae.metrics import log_likelihood_score
from skgvae.model_selection import StackedGridSearchCV

            if __name__ == "__main__":
                X, grid = load_iris().data, {{"kl_weight": [0.5, 1.0], "n_components": [1, 2]}}
                vae = GaussianVAE(**{ONE!r})
                plain = GridSearchCV(vae, grid, cv=3).fit(X).cv_results_["mean_test_score"]
                with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
                    with Client(cluster), joblib.parallel_config(backend="dask"):
                        for search in (GridSearchCV, StackedGridSearchCV):
                            found = search(vae, grid, cv=3, n_jobs=2).fit(X)
                            scores = found.cv_results_["mean_test_score"]
                            np.testing.assert_allclose(scores, plain, rtol=1e-6)
            """
        )
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
