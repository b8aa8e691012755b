"""Every estimator on every kind of data: a finite answer, or an error that says what is wrong."""

import tracemalloc
import warnings
from unittest import mock

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skgvae import (
    GaussianVAE,
    GaussianVAEClassifier,
    GaussianVAERegressor,
    PosteriorCollapseWarning,
)
from skgvae.net import GaussianVAENet

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* rows or groups are too few:UserWarning",
    "ignore:No cell of columns:UserWarning",
    "ignore:X has unknown cells:UserWarning",  # the weights leave out those of fit
    "ignore::skgvae.PosteriorCollapseWarning",
    # scikit-learn's, of a continuous target, and of infinite values of both signs
    "ignore:The number of unique classes:UserWarning",
    "ignore:invalid value encountered in reduce:RuntimeWarning",
)

FAST = {"hidden_layer_sizes": (4,), "n_draws": 4, "max_epochs": 1}
SHORT = settings(max_examples=20, deadline=None, derandomize=True, database=None)
LONG = settings(max_examples=1000, deadline=None, database=None)

VALUES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "constant": lambda rng, shape: np.full(shape, 3.0),
    "a huge constant": lambda rng, shape: np.full(shape, 1.764e18 + rng.integers(9) * 256),
    "near a huge constant": lambda rng, shape: 1.764e18 + 1e4 * rng.standard_normal(shape),
    "near-constant": lambda rng, shape: 1 + 1e-14 * rng.standard_normal(shape),
    "duplicated rows": lambda rng, shape: np.repeat(
        rng.standard_normal((1, shape[1])), *shape[:1], 0
    ),
    "collinear": lambda rng, shape: (
        rng.standard_normal((shape[0], 1)) * np.arange(1, shape[1] + 1)
    ),
    "heavy tails": lambda rng, shape: rng.standard_cauchy(shape),
    "outlier": lambda rng, shape: with_value(rng, rng.standard_normal(shape), 1e12),
    "a huge value": lambda rng, shape: with_value(rng, rng.standard_normal(shape), 1e300),
    "offset": lambda rng, shape: 1e9 + rng.standard_normal(shape),
    "denormal": lambda rng, shape: 5e-320 * rng.standard_normal(shape),
    "tiny": lambda rng, shape: 1e-150 * rng.standard_normal(shape),
    "large": lambda rng, shape: 1e30 * rng.standard_normal(shape),
    "huge": lambda rng, shape: 1e150 * rng.standard_normal(shape),
    "integers": lambda rng, shape: rng.integers(-5, 5, shape),
    "binary": lambda rng, shape: rng.random(shape) > 0.5,
    "NaN": lambda rng, shape: with_value(rng, rng.standard_normal(shape), np.nan),
    "holes": lambda rng, shape: with_holes(rng, 1e5 * rng.standard_normal(shape), 0.4),
    "hardly any cell": lambda rng, shape: with_holes(rng, rng.standard_normal(shape), 0.9),
    "inf": lambda rng, shape: with_value(rng, rng.standard_normal(shape), -np.inf),
}
FORMS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda X: X[::-1, ::-1],
    "every other": lambda X: np.repeat(np.repeat(X, 2, 0), 2, 1)[::2, ::2],
    "read-only": lambda X: read_only(X.copy()),
    "big-endian": lambda X: X.astype(">f8"),
    "float32": lambda X: to_float32(X),
    "object": lambda X: X.astype(object),
    "list": lambda X: X.tolist(),
    "pandas": lambda X: pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])]),
    "pandas nullable": lambda X: pd.DataFrame(X).astype("Float64"),
    "polars": lambda X: pl.DataFrame(X, schema=[f"x{i}" for i in range(X.shape[1])]),
}
WEIGHTS = {
    "none": lambda rng, n: None,
    "ones": lambda rng, n: np.ones(n),
    "random": lambda rng, n: rng.random(n),
    "zero": lambda rng, n: np.zeros(n),
    "mostly zero": lambda rng, n: (np.arange(n) < 2).astype(float),
    "one huge": lambda rng, n: np.where(np.arange(n) == 0, 1e30, 1.0),
    "one alone": lambda rng, n: np.where(np.arange(n) == 0, 1.0, 1e-60),
    "all huge": lambda rng, n: np.full(n, 1e308),
    "tiny": lambda rng, n: np.full(n, 1e-320),
    "negative": lambda rng, n: -np.ones(n),
    "NaN": lambda rng, n: np.full(n, np.nan),
}
TARGETS = {
    "classes": lambda rng, n: rng.integers(0, 3, n),
    "one class": lambda rng, n: np.zeros(n, int),
    "a class for each row": lambda rng, n: np.arange(n),
    "more classes than rows": lambda rng, n: 1000 * np.arange(n),
    "strings": lambda rng, n: np.where(rng.random(n) > 0.5, "a", "b"),
    "objects": lambda rng, n: np.where(rng.random(n) > 0.5, "a", "b").astype(object),
    "booleans": lambda rng, n: rng.random(n) > 0.5,
    "categories": lambda rng, n: pd.Series(rng.integers(0, 2, n)).astype("category"),
    "numbers": lambda rng, n: rng.standard_normal(n),
    "an outlier": lambda rng, n: np.where(np.arange(n) == 0, 1e12, rng.standard_normal(n)),
    "huge": lambda rng, n: 1e100 * rng.standard_normal(n),
    "NaN": lambda rng, n: np.where(np.arange(n) == 0, np.nan, 1.0),
    "too short": lambda rng, n: np.zeros(n + 1, int),
}


def with_value(rng, X, value):
    X.flat[rng.integers(X.size)] = value
    return X


def with_holes(rng, X, share):
    return np.where(rng.random(X.shape) < share, np.nan, X)


def read_only(X):
    X.flags.writeable = False
    return X


def to_float32(X):
    with np.errstate(over="ignore", under="ignore"):
        return X.astype(np.float32)


def snapshot(X):
    return np.array(X, dtype=object if isinstance(X, list) else None)


def answers(model, X, y):
    names = ("transform", "reconstruct", "elbo", "score_samples", "predict_proba")
    names += ("predict_variance", "predict_interval")
    if not hasattr(model, "classes_"):
        names += ("predict",)
    for name in names:
        if hasattr(model, name):
            found = getattr(model, name)(X)
            yield from ((name, part) for part in (found if isinstance(found, tuple) else (found,)))


CASES = {
    "kind": st.sampled_from([GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier]),
    "shape": st.one_of(
        st.sampled_from([(1, 1), (2, 1), (2, 30), (3, 3), (300, 2)]),
        st.tuples(st.integers(1, 40), st.integers(1, 12)),
    ),
    "values": st.sampled_from(sorted(VALUES)),
    "form": st.sampled_from(sorted(FORMS)),
    "weights": st.one_of(st.just("none"), st.sampled_from(sorted(WEIGHTS))),
    "target": st.one_of(st.just("classes"), st.sampled_from(sorted(TARGETS))),
    "n_components": st.sampled_from([None, 1, 5, 50]),
    "noise": st.sampled_from(["heteroscedastic", "homoscedastic", "isotropic", "student"]),
    "validation_fraction": st.sampled_from(["auto", 0.3, None]),
    "prior": st.sampled_from(["mixture", "standard", 3]),
    "seed": st.integers(0, 5),
}


def check(kind, shape, values, form, weights, target, seed, **params):
    rng = np.random.default_rng(seed)
    X = FORMS[form](VALUES[values](rng, shape))
    y, weight = TARGETS[target](rng, shape[0]), WEIGHTS[weights](rng, shape[0])
    inputs = [a for a in (X, y, weight) if a is not None]
    before = [snapshot(a) for a in inputs]
    if kind is not GaussianVAE:
        params["n_estimators"] = 1
        params.pop("prior", None)
    model = kind(**FAST, **params, random_state=seed)
    watched = {"autospec": True, "side_effect": GaussianVAENet.fit_loop}
    try:
        with mock.patch.object(GaussianVAENet, "fit_loop", **watched) as training:
            model.fit(X, y, sample_weight=weight)
    except (ValueError, TypeError) as error:
        assert not training.called  # it is found out before
        assert len(str(error)) > 20  # noqa: PT017
        assert type(error) in (ValueError, TypeError)  # noqa: PT017 - no LinAlgError
        assert set(vars(model)) == set(model.get_params(deep=False))
    else:
        assert values != "inf"
        assert weights not in ("NaN", "negative", "zero")
        one_row = X[:1] if shape[0] > 1 else X
        known = dict(answers(model, X, y))
        for rows in (X, one_row):
            for name, answer in answers(model, rows, y):
                if name == "reconstruct":  # not of columns of which nothing was known in fit
                    answer = answer[:, ~np.isnan(model.noise_variance_)].astype(float)
                assert np.isfinite(answer).all(), name
                assert len(answer) == len(rows), name
        with pytest.raises((ValueError, TypeError)):
            model.fit(X[:0], y[:0])
        for name, answer in answers(model, X, y):  # by no use, nor by a refused fit
            if name != "predict_variance":
                np.testing.assert_array_equal(answer, known[name], err_msg=name)
    for a, known in zip(inputs, before, strict=True):  # NaN equals NaN also among objects
        assert pd.DataFrame(snapshot(a)).equals(pd.DataFrame(known))


@SHORT
@given(**CASES)
def test_an_answer_or_an_error(**case):
    check(**case)


@pytest.mark.slow
@LONG
@given(**CASES)
def test_an_answer_or_an_error_at_length(**case):
    check(**case)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_infinity_is_refused_in_every_position(kind, value):
    X, y = np.random.default_rng(0).standard_normal((6, 3)), np.arange(6) % 2
    fitted = kind(2, **FAST, random_state=0).fit(X, y)
    known = fitted.transform(X)
    names = ("transform", "reconstruct", "elbo", "score_samples", "predict", "predict_proba")
    for i, j in np.ndindex(X.shape):
        spoiled = X.copy()
        spoiled[i, j] = value
        with pytest.raises(ValueError, match="contains infinity"):
            kind(2, **FAST, random_state=0).fit(spoiled, y)
        for method in ("fit", "partial_fit"):
            with pytest.raises(ValueError, match="contains infinity"):
                getattr(fitted, method)(spoiled, y)
        for name in names:
            if hasattr(fitted, name):
                targets = (y,) if name == "score_samples" and hasattr(fitted, "predict") else ()
                with pytest.raises(ValueError, match="contains infinity"):
                    getattr(fitted, name)(spoiled, *targets)
    np.testing.assert_array_equal(fitted.transform(X), known)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_a_cell_may_be_unknown_in_every_position(kind):
    X, y = np.random.default_rng(0).standard_normal((6, 3)), np.arange(6) % 2
    for i, j in np.ndindex(X.shape):
        spoiled = X.copy()
        spoiled[i, j] = np.nan
        model = kind(2, **FAST, random_state=0).fit(spoiled, y)
        for name, answer in answers(model, spoiled, y):
            assert np.isfinite(answer).all(), name


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_no_rows_are_refused_and_one_row_has_the_answer_of_many(kind):
    X, y = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 2
    model = kind(2, **FAST, random_state=0).fit(X, y)
    for (name, whole), (_, one) in zip(
        answers(model, X, y), answers(model, X[7:8], y), strict=True
    ):
        np.testing.assert_allclose(one, whole[7:8], rtol=1e-6, atol=1e-6, err_msg=name)
        with pytest.raises(ValueError, match="0 sample"):
            getattr(model, name)(X[:0])


@pytest.mark.parametrize("values", sorted(VALUES))
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
@pytest.mark.parametrize("noise", ["heteroscedastic", "student"])
def test_every_kind_of_values(values, kind, noise):
    case = {"form": "C", "weights": "none", "target": "classes", "seed": 0}
    check(kind, (40, 3), values, noise=noise, **case)


@pytest.mark.filterwarnings("ignore:A value of .* lies:UserWarning")
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(v, np.float32) for v in (1e7, 1e9, 1e25, -3e38)]
    + [(v, np.float64) for v in (1e7, 1e25, 1e155, -1e308)],
)
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_rows_far_outside_the_training_rows(kind, value, dtype):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    far = X[:3].astype(dtype)
    far[1, 1] = value
    model = kind(**FAST, validation_fraction=0.1, random_state=0).fit(X, y)
    known = model.transform(X)
    for name, answer in answers(model, far, y):
        assert np.isfinite(answer).all(), name
    if abs(value) > 1e8:
        with pytest.raises(ValueError, match=r"A value of X lies .* standard deviations from"):
            model.partial_fit(far, y[:3])
        np.testing.assert_array_equal(model.transform(X), known)
    else:
        model.partial_fit(far, y[:3])
        assert np.isfinite(model.transform(X)).all()
        assert np.any(model.transform(X) != known)


def test_targets_too_far_from_the_first_ones_are_named():
    X = np.random.default_rng(0).standard_normal((40, 3))
    model = GaussianVAERegressor(**FAST, random_state=0).partial_fit(X, X[:, 0])
    with pytest.raises(ValueError, match=r"A value of the target lies 9.*e\+24 standard"):
        model.partial_fit(X, np.where(np.arange(40) == 3, 1e25, X[:, 0]))


def test_all_weights_huge_are_all_weights_one():
    X = np.random.default_rng(0).standard_normal((40, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorCollapseWarning)
        a, b = (
            GaussianVAE(**FAST, random_state=0).fit(X, sample_weight=np.full(40, weight))
            for weight in (1.0, 1e308)
        )
    np.testing.assert_array_equal(a.transform(X), b.transform(X))


@pytest.mark.parametrize(
    ("kind", "method", "params"),
    [
        (GaussianVAE, "transform", {}),
        (GaussianVAE, "score_samples", {}),
        (GaussianVAE, "reconstruct", {"return_std": True}),
        (GaussianVAERegressor, "predict", {"return_std": True}),
        (GaussianVAEClassifier, "predict_proba", {}),
    ],
)
def test_many_rows_take_little_memory_beyond_the_answer(kind, method, params):
    X = np.random.default_rng(0).standard_normal((20_000, 20))
    model = kind(20, **FAST, random_state=0).fit(X[:40], np.arange(40) % 2)
    tracemalloc.start()
    try:
        answer = getattr(model, method)(X, **params)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    n_bytes = sum(part.nbytes for part in (answer if isinstance(answer, tuple) else (answer,)))
    assert peak - n_bytes < 1.5e6 < 0.5 * X.nbytes  # numpy's alone: torch's is not traced
