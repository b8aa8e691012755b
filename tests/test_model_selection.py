"""Searches that train together give what scikit-learn's searches give."""

import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
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
    _shared_stack,
    _start,
    _together,
    _vae,
)
from skgvae.model_selection import StackedGridSearchCV, StackedRandomizedSearchCV

FAST = {"max_epochs": 4, "hidden_layer_sizes": (8,), "n_draws": 32, "random_state": 0}
# The start need not seek how many: that takes the most of a short fit.
FEW_GAUSSIANS = {**FAST, "n_prior_components": 2}
# Nor need there be models of folds.
ONE = {**FEW_GAUSSIANS, "validation_fraction": 0.1, "n_estimators": 1}
CV = KFold(3, shuffle=True, random_state=0)


@pytest.fixture
def stacks(monkeypatch):
    """Return a list of how many fits each stack trained."""
    sizes, train_as_one = [], _shared_stack._train_as_one

    def spy(trainings):
        train_as_one(trainings)
        sizes.append(len(trainings))

    monkeypatch.setattr(_shared_stack, "_train_as_one", spy)
    return sizes


@pytest.fixture(scope="module")
def wine():
    return load_wine(return_X_y=True)


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:120], y[:120]


def assert_same_search(ours, theirs, rtol=1e-3):
    assert ours.cv_results_.keys() == theirs.cv_results_.keys()
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for name, values in theirs.cv_results_.items():
        if name.startswith("rank_test_"):  # equal scores have any order
            scores = theirs.cv_results_[name.replace("rank", "mean")]
            ordered = scores[np.argsort(ours.cv_results_[name])]
            assert (np.diff(ordered) <= 1e-3 * (1 + np.abs(ordered[1:]))).all()
        elif "test_" in name or "train_" in name:
            np.testing.assert_allclose(
                ours.cv_results_[name], values, rtol=rtol, atol=1e-3, err_msg=name
            )
    assert ours.multimetric_ == theirs.multimetric_
    for name in ("best_params_", "best_index_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


def search_both(estimator, grid, X, y=None, cv=CV, fit_params=None, **params):
    ours, theirs = (
        search(estimator, grid, cv=cv, **params).fit(X, y, **(fit_params or {}))
        for search in (StackedGridSearchCV, GridSearchCV)
    )
    assert_same_search(ours, theirs)
    return ours, theirs


# Parity


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
    model = GaussianVAE(4, **FAST, validation_fraction=0.1, n_estimators=1)
    grid = {"kl_weight": [0.5, 1.0]}
    search_both(model, grid, X, refit=False)
    assert stacks == [6]
    models = fitted_models(grid, X, model)
    numbers = [m.n_prior_components_ for m in models]
    assert len(set(numbers)) > 1  # else the test shows nothing
    assert [m.module_.prior.n_components for m in models] == numbers


@pytest.mark.parametrize("model", ["density", "regressor", "classifier"])
@pytest.mark.filterwarnings("ignore:The scoring .* does not support sample_weight")
def test_folds_that_differ_by_a_row(model, wine, stacks):
    X, y = wine
    X, y = X[:155], y[:155]  # 103 rows to train on, or 104, of which 11 are held out
    n_stacks = 1
    if model == "density":
        estimator = GaussianVAE(2, **FEW_GAUSSIANS)
    elif model == "regressor":
        estimator, y, n_stacks = GaussianVAERegressor(**FAST), X[:, 0], 2
    else:
        estimator = GaussianVAEClassifier(early_stopping=False, **FAST)
    weight = {"sample_weight": np.linspace(1, 2, 155)}
    search_both(estimator, {"kl_weight": [0.1, 0.3]}, X, y, fit_params=weight, refit=False)
    assert len(stacks) == n_stacks
    assert sum(stacks) == 6


def test_fits_of_one_fold_share_their_start(iris, monkeypatch):
    calls, own = [], _start.factor_analysis
    monkeypatch.setattr(_vae, "factor_analysis", lambda *args: calls.append(args) or own(*args))
    model = GaussianVAE(2, prior="standard", **FAST)
    grid = {"kl_weight": [0.5, 1.0, 2.0], "min_noise": [0.01, 0.1]}
    search_both(model, grid, iris, refit=False)
    # For each fold, and each of GridSearchCV's fits, with all rows and without each fifth.
    assert len(calls) == (3 + 18) * 6


@pytest.mark.parametrize(
    ("n_fits", "grid"),
    [
        (
            [24],
            {
                "min_noise": [0.01, 0.1],
                "random_state": [0, 1],
                "init": ["random", "factor_analysis"],
            },
        ),
        ([12], {"n_init": [1, 3], "init": ["random"], "kl_weight": [0.5, 1.5]}),
        ([6] * 2, {"early_stopping": [True, False], "weight_decay": [0.0, 0.1]}),
        ([6, 6], {"noise": ["homoscedastic", "isotropic"], "kl_weight": [0.5, 1.5]}),
        ([3] * 4, {"n_train_draws": [1, 2], "lr": [1e-2, 1e-3], "batch_size": [20]}),
        ([3], {"max_epochs": [0, 30], "patience": [2], "lr": [0.1]}),
        ([6], {"batch_size": [32], "kl_weight": [0.5, 1.5]}),  # orthogonal steps
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_density_with_other_parameters(n_fits, grid, iris, stacks):
    params = FEW_GAUSSIANS if "batch_size" in grid else ONE  # models of folds in one case
    search_both(GaussianVAE(2, **params), grid, iris)
    assert stacks == n_fits


def test_each_latent_size_has_a_stack_of_its_own(iris, stacks):
    search_both(GaussianVAE(**ONE), {"n_components": [3, 1, 2], "kl_weight": [0.5, 1.0]}, iris)
    assert stacks == [6, 6, 6]


def test_starts_that_compete(stacks, monkeypatch):
    monkeypatch.setattr(GaussianVAE, "_n_steps", 1)
    monkeypatch.setattr(GaussianVAE, "_n_rows_seen", 20 * 460)  # a first cycle of 20 epochs
    rng = np.random.default_rng(0)
    curve = np.sin(rng.uniform(-3, 3, (510, 1)) * [1, 2, 3])
    X = curve + 0.2 * rng.standard_normal(curve.shape)
    params = {"prior": "standard", "hidden_layer_sizes": (8,), "batch_size": 150, "n_draws": 32}
    model = GaussianVAE(**params, n_estimators=1, random_state=0)
    search, _ = search_both(
        model, {"kl_weight": [0.7, 1.0]}, X, cv=ShuffleSplit(2, test_size=10, random_state=0)
    )
    assert stacks == [4]
    assert len(search.best_estimator_.net_.history[0]["modules"]["valid_loss"]) == 2


def test_regressor(diabetes, stacks):
    grid = {"kl_weight": [0.01, 0.1], "n_estimators": [1, 2], "standardize": [True, False]}
    search_both(GaussianVAERegressor(**FAST), grid, *diabetes, return_train_score=True)
    assert sum(stacks) == 24


@pytest.mark.parametrize("labels", ["all", "few"])
def test_classifier(labels, wine, stacks):
    X, y = wine
    y = np.where(np.arange(len(y)) % 4 > 0, -1, y) if labels == "few" else y
    unlabeled = None if labels == "all" else -1
    model = GaussianVAEClassifier(unlabeled=unlabeled, n_estimators=2, **FAST)
    grid = {"kl_weight": [0.05, 0.5], "vae_weight": [0.0, 0.5], "class_weight": [None, "balanced"]}
    # To the precision of probabilities: a rounded one may tip over a row.
    search_both(model, grid, X, y, scoring="neg_log_loss" if labels == "all" else None)
    assert sorted(stacks) == ([4, 4, 8, 8] if labels == "all" else [4] * 6)


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
    np.testing.assert_allclose(scores, cross_val_score(plain, iris, cv=CV), rtol=1e-3)
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
    model = GaussianVAE(2, prior="standard", **{**FAST, "init": "random"})
    splits = [(np.arange(100), np.arange(100, 150)), (np.arange(50, 150), np.arange(50))]
    found = []
    for search in (StackedGridSearchCV, GridSearchCV):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(search(model, grid, cv=splits, refit=False).fit(iris).cv_results_)
        assert any("not finite" in str(w.message) for w in caught)
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-3)


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

    monkeypatch.setattr(_shared_stack, "_train_as_one", fail)
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
    of_a_step = name == "step_bytes"
    monkeypatch.setattr(
        _shared_stack.Training, name, (lambda *sizes: n_bytes) if of_a_step else n_bytes
    )
    parts = StackedGridSearchCV(GaussianVAE(2, **ONE), grid, cv=CV).fit(iris)
    assert_same_search(parts, whole)
    assert stacks[1:] == sizes


def test_pre_dispatch_limits_a_wave(iris, stacks):
    grid = {"kl_weight": [0.5, 1.0, 2.0]}
    search_both(GaussianVAE(2, **ONE), grid, iris, pre_dispatch=3)
    assert stacks == [3, 3, 3]


def test_the_estimate_of_memory_grows_with_rows_and_weights(iris):
    train_as_one = _shared_stack._train_as_one

    def estimate(X, **params):
        seen = []

        def spy(trainings):
            seen.extend(trainings)
            train_as_one(trainings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_shared_stack, "_train_as_one", spy)
            params = {"validation_fraction": 0.1, "n_estimators": 1, **FAST, **params}
            fits = [GaussianVAE(2, **params).fit] * 2
            _together.run_together((lambda fit=fit: fit(X)) for fit in fits)
        steps = [seen[0].step_bytes(factor * seen[0].n_components) for factor in (1, 40)]
        return np.array([seen[0].held_bytes, *steps])

    *small, padded = estimate(iris)
    assert padded > 2 * small[1]
    small = np.array(small)
    more_rows = estimate(np.vstack([iris] * 10))
    assert more_rows[0] > 5 * small[0]
    assert more_rows[1] > small[1]  # a validation row has the fewer draws, the more there are
    assert np.all(estimate(iris, hidden_layer_sizes=(800,))[:2] > 10 * small)


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
    params = {**FAST, "max_epochs": 30, "patience": 3, "lr": lr, "validation_fraction": fraction}
    params |= {"min_noise": min_noise, "n_estimators": 1, "n_prior_components": 2}
    many = fitted_models({"kl_weight": [0.1, 0.5, 1.0, 3.0]}, iris, GaussianVAE(2, **params))
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
    np.testing.assert_allclose(together, [call(seed) for seed in range(3)], rtol=1e-3)


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
                            np.testing.assert_allclose(scores, plain, rtol=1e-3)
            """
        )
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
