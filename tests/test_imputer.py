import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import get_tags
from skorch.callbacks import Callback

from skgvae import GaussianVAE, GaussianVAEImputer, GaussianVAERegressor

NAMES = ["a", "b", "c", "d", "e"]


def model(**params):
    fast = {"max_epochs": 3, "hidden_layer_sizes": (8,), "n_estimators": 2, "n_draws": 32}
    return GaussianVAE(prior="standard", **fast, **params)


def imputer(**params):
    return GaussianVAEImputer(model(), **{"random_state": 0} | params)


@pytest.fixture(scope="module")
def complete():
    """Rows of five columns that two factors explain but for a little noise."""
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((2, 5))
    noise = 0.2 * rng.standard_normal((200, 5))
    return rng.standard_normal((200, 2)) @ loadings + noise + [0, 5, -5, 10, 2]


@pytest.fixture(scope="module")
def table(complete):
    """The same rows, with missing cells in columns b, d and e; row 7 has no known cell."""
    X = complete.copy()
    is_missing = np.random.default_rng(1).uniform(size=X.shape) < 0.2
    is_missing[:, [0, 2]] = False
    is_missing[7] = True
    X[is_missing] = np.nan
    return X


@pytest.fixture(scope="module")
def with_empty(table):
    """The same rows, with column c empty."""
    X = table.copy()
    X[:, 2] = np.nan
    return X


@pytest.fixture(scope="module")
def fitted(table):
    return imputer().fit(table)


def rmse(X, complete, cells):
    return np.sqrt(np.mean((X - complete)[cells] ** 2))


# What is filled in


@pytest.mark.parametrize("params", [{}, {"statistic": "median"}, {"sample_posterior": True}])
def test_missing_cells_are_filled_and_known_cells_untouched(params, table):
    given = table.copy()
    X = imputer(**params).fit_transform(table)
    known = ~np.isnan(table)
    np.testing.assert_array_equal(X[known], table[known])
    np.testing.assert_array_equal(given, table)
    assert np.isfinite(X).all()


def test_guesses_are_far_better_than_means_of_columns(table, complete):
    missing = np.isnan(table)
    missing[7] = False  # nothing is known of it
    of_means = rmse(SimpleImputer().fit_transform(table), complete, missing)
    assert rmse(imputer().fit_transform(table), complete, missing) < of_means / 2


def test_cells_are_those_of_impute(table, fitted):
    model = fitted.estimator_
    np.testing.assert_array_equal(fitted.transform(table), model.impute(table))
    (draw,) = model.impute(table, n_imputations=1, random_state=3)
    other = pickle.loads(pickle.dumps(fitted))
    other.set_params(statistic="median")
    np.testing.assert_array_equal(other.transform(table), model.impute(table, statistic="median"))
    other.set_params(sample_posterior=True, random_state=3)
    np.testing.assert_array_equal(other.transform(table), draw)


def test_draws_follow_the_seed(table, fitted):
    missing, other = np.isnan(table), pickle.loads(pickle.dumps(fitted))
    other.set_params(sample_posterior=True)

    def draw(seed):
        return other.set_params(random_state=seed).transform(table)

    first = draw(0)
    np.testing.assert_array_equal(first, draw(0))
    for seed in (1, None, np.random.RandomState(5)):
        again = draw(seed)
        assert (again != first)[missing].all()
        assert (again != draw(seed))[missing].all() == (seed != 1)
        np.testing.assert_array_equal(again[~missing], table[~missing])


def test_draws_have_the_spread_that_means_lack(table, fitted):
    other = pickle.loads(pickle.dumps(fitted)).set_params(sample_posterior=True)
    row = np.repeat(table[7:8], 300, 0)  # no cell is known
    ratio = other.transform(row).std(0) / np.nanstd(table, 0)
    assert ((ratio > 0.7) & (ratio < 1.4)).all(), ratio
    np.testing.assert_allclose(fitted.transform(row).std(0), 0, atol=1e-9)


def test_a_row_without_known_cells_is_near_the_mean(table, fitted):
    row = fitted.transform(np.full((1, 5), np.nan))[0]
    np.testing.assert_allclose(row, np.nanmean(table, 0), atol=0.5)


def test_a_table_without_missing_cells(table, complete):
    complete_imputer = imputer(add_indicator=True).fit(complete)
    X = complete_imputer.transform(complete)
    np.testing.assert_array_equal(X, complete)
    assert X is not complete
    assert np.isfinite(complete_imputer.transform(table)).all()


def test_one_column(table):
    X = imputer().fit_transform(table[:, 1:2])
    np.testing.assert_allclose(X[7], np.nanmean(table[:, 1]), atol=0.5)


@pytest.mark.parametrize("params", [{}, {"sample_posterior": True, "add_indicator": True}])
def test_float32_is_kept(params, table):
    X = table.astype(np.float32)
    filled = imputer(**params).fit_transform(X)
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[:, :5][~np.isnan(X)], X[~np.isnan(X)])


# Markers


@pytest.mark.parametrize("marker", [-1, 0, -9.5, np.float64(0.1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_number_marks_missing_cells(marker, dtype, table, fitted):
    X = table.astype(dtype)
    marked = np.where(np.isnan(X), np.asarray(marker, dtype), X)
    filled = imputer(missing_values=marker, add_indicator=True).fit_transform(marked)
    np.testing.assert_array_equal(filled[:, 5:], np.isnan(X))  # row 7 is in each column
    if dtype == np.float64:
        np.testing.assert_array_equal(filled[:, :5], fitted.transform(X))
    else:
        assert filled.dtype == np.float32
        np.testing.assert_allclose(filled[:, :5], fitted.transform(X), rtol=1e-4)


def test_integers_with_a_marker():
    X = np.random.default_rng(0).integers(0, 9, (60, 3))
    X[::3, 1] = -1
    filled = imputer(missing_values=-1).fit_transform(X)
    np.testing.assert_array_equal(filled[X != -1], X[X != -1])
    assert (filled[X == -1] > 0).all()


def test_nan_beside_a_number_as_the_marker_is_an_error(table):
    with pytest.raises(ValueError, match="contains NaN"):
        imputer(missing_values=-1).fit(table)
    no_nan = imputer(missing_values=-1).fit(np.nan_to_num(table, nan=-1))
    with pytest.raises(ValueError, match="contains NaN"):
        no_nan.transform(table)


@pytest.mark.parametrize("marker", [np.nan, pd.NA])
def test_nullable_columns_of_pandas(marker, table, fitted):
    X = pd.DataFrame(table).convert_dtypes()
    X.columns = NAMES
    assert X["b"].isna().any()
    assert X["b"].dtype == "Float64"
    filled = imputer(missing_values=marker).fit_transform(X)
    np.testing.assert_array_equal(filled, fitted.transform(table))
    filled = imputer(missing_values=marker).fit_transform(X.astype(object))
    np.testing.assert_array_equal(filled, fitted.transform(table))


# Features of which no cell is known


def test_empty_features_are_dropped_with_a_warning(with_empty):
    X = pd.DataFrame(with_empty.copy(), columns=NAMES)
    dropped = imputer()
    with pytest.warns(UserWarning, match=r"Features \['c'\] .* dropped.*keep_empty_features=True"):
        dropped.fit(X)
    X.loc[5, "c"] = 3.0
    with pytest.warns(UserWarning, match=r"\['c'\]"):
        filled = dropped.transform(X)
    assert dropped.get_feature_names_out().tolist() == ["a", "b", "d", "e"]
    known = ~np.isnan(with_empty)
    rest = [0, 1, 3, 4]
    np.testing.assert_array_equal(filled[known[:, rest]], with_empty[:, rest][known[:, rest]])
    with pytest.warns(UserWarning, match=r"Features \[2\]"):
        imputer().fit(with_empty)


def test_empty_features_are_kept_on_demand(with_empty):
    with warnings.catch_warnings(action="error"):
        kept = imputer(keep_empty_features=True).fit(with_empty)
        X = with_empty.copy()
        X[5, 2] = 3.0
        filled = kept.transform(X)
    assert kept.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3", "x4"]
    np.testing.assert_array_equal(filled[:, 2], np.where(np.arange(200) == 5, 3.0, 0.0))
    with pytest.warns(UserWarning, match="dropped"):
        dropped = imputer().fit_transform(with_empty)
    np.testing.assert_array_equal(np.delete(filled, 2, 1), dropped)


@pytest.mark.parametrize("marker", [np.nan, -1])
def test_a_table_of_which_nothing_is_known(marker):
    with pytest.raises(ValueError, match=f"No cell of X is known: all are {marker!r}"):
        imputer(missing_values=marker).fit(np.full((9, 3), marker))


# Indicators


@pytest.mark.parametrize("marker", [np.nan, -1])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.filterwarnings("ignore:Features:UserWarning")
def test_indicators_and_the_way_back(keep, marker, with_empty):
    X = np.where(np.isnan(with_empty), marker, with_empty)
    params = {"missing_values": marker, "keep_empty_features": keep}
    both = imputer(add_indicator=True, **params).fit(X)
    filled = both.transform(X)
    rows, indicators = np.split(filled, [5 if keep else 4], 1)
    np.testing.assert_array_equal(rows, imputer(**params).fit_transform(X))
    np.testing.assert_array_equal(indicators, np.isnan(with_empty))  # row 7 is in each column
    np.testing.assert_array_equal(both.inverse_transform(filled), X)
    np.testing.assert_array_equal(both.inverse_transform(filled[7:8]), X[7:8])
    assert both.inverse_transform(filled.astype(np.float32)).dtype == np.float32
    assert both.inverse_transform(filled.astype(int)).dtype == np.float64
    np.testing.assert_array_equal(
        both.indicator_.transform(X), MissingIndicator(missing_values=marker).fit_transform(X)
    )


def test_only_features_with_missing_values_in_fit_have_indicators(table):
    part = table[np.arange(len(table)) != 7]
    both = imputer(add_indicator=True).fit(part)
    np.testing.assert_array_equal(both.indicator_.features_, [1, 3, 4])
    X = table.copy()
    X[0, 0] = np.nan
    filled = both.transform(X)
    assert filled.shape == (200, 8)
    np.testing.assert_array_equal(filled[:, 5:], np.isnan(X[:, [1, 3, 4]]))
    back = both.inverse_transform(filled)
    assert back[0, 0] == filled[0, 0]  # no indicator says that it was missing
    np.testing.assert_array_equal(back[:, [1, 3, 4]], X[:, [1, 3, 4]])


@pytest.mark.filterwarnings("ignore:Features:UserWarning")
def test_a_dropped_feature_comes_back_as_missing(table, with_empty):
    both = imputer(add_indicator=True).fit(with_empty)
    back = both.inverse_transform(both.transform(table))  # in which it has known cells
    np.testing.assert_array_equal(back, with_empty)


def test_the_way_back_needs_indicators(table, fitted):
    with pytest.raises(ValueError, match="add_indicator=True"):
        fitted.inverse_transform(table)
    both = imputer(add_indicator=True).fit(table)
    with pytest.raises(ValueError, match="NaN"):
        both.inverse_transform(np.full((2, 10), np.nan))
    with pytest.raises(ValueError, match=r"X has 5 columns.* 5 features and 5 indicators"):
        both.inverse_transform(fitted.transform(table))


# Names and containers


def test_names_of_columns(table):
    X = pd.DataFrame(table, columns=NAMES, index=np.arange(200) + 50).drop(index=57)
    both = imputer(add_indicator=True).set_output(transform="pandas")
    filled = both.fit_transform(X)
    assert filled.columns.tolist() == [*NAMES, *(f"missingindicator_{n}" for n in "bde")]
    assert both.get_feature_names_out().tolist() == filled.columns.tolist()
    assert filled.index.equals(X.index)
    assert both.feature_names_in_.tolist() == NAMES
    assert both.n_features_in_ == 5
    back = both.inverse_transform(filled)
    np.testing.assert_array_equal(back, X)


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_output_that_is_set_for_all(output, table, fitted):
    with config_context(transform_output=output):
        filled = imputer(add_indicator=True).fit_transform(table)
    assert type(filled).__module__.startswith(output)
    np.testing.assert_array_equal(filled.to_numpy()[:, :5], fitted.transform(table))


# Inside scikit-learn


def test_in_a_pipeline_with_a_classifier(table, complete):
    y = complete[:, 1] > 5
    pipe = make_pipeline(imputer(), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipe, table, y, cv=3).mean() > 0.85


def test_in_a_column_transformer(table, fitted):
    X = pd.DataFrame(table, columns=NAMES).assign(city=np.tile(["Rome", "Oslo"], 100))
    columns = make_column_transformer((imputer(), NAMES), (OneHotEncoder(), ["city"]))
    filled = columns.fit_transform(X)
    assert filled.shape == (200, 7)
    np.testing.assert_array_equal(filled[:, :5], fitted.transform(table))
    names = columns.get_feature_names_out().tolist()
    assert names[:5] == [f"gaussianvaeimputer__{name}" for name in NAMES]


def test_parameters_of_the_model_are_searched(table, complete):
    pipe = make_pipeline(imputer(), LinearRegression())
    grid = {"gaussianvaeimputer__estimator__kl_weight": [0.5, 1e4]}
    search = GridSearchCV(pipe, grid, cv=2).fit(table, complete[:, 1])
    assert search.best_estimator_[0].estimator_.kl_weight == search.best_params_.popitem()[1]
    few, many = search.cv_results_["mean_test_score"]
    assert few != many


def test_metadata_is_routed(table, complete):
    weight = np.r_[np.zeros(150), np.ones(50)]
    with config_context(enable_metadata_routing=True):
        step = imputer().set_fit_request(sample_weight=True, groups=True)
        pipe = make_pipeline(step, LinearRegression().set_fit_request(sample_weight=False))
        pipe.fit(table, complete[:, 1], sample_weight=weight, groups=np.arange(200) // 2)
    expected = imputer().fit(table[150:], groups=np.arange(50) // 2)
    found = pipe[0].transform(table)
    np.testing.assert_allclose(found, expected.transform(table), rtol=1e-6)
    by_row = imputer().fit(table[150:])
    assert not np.allclose(found, by_row.transform(table), rtol=1e-6)


def test_rows_of_weight_zero_are_left_out(table, with_empty):
    part = np.delete(with_empty, 7, 0)  # in which a has no missing cells
    X = np.r_[table, part]
    weight = np.r_[np.zeros(200), np.ones(199)]
    with pytest.warns(UserWarning, match=r"Features \[2\] have no known cell"):
        weighted = imputer(add_indicator=True).fit(X, sample_weight=weight)
    with pytest.warns(UserWarning, match="dropped"):
        expected = imputer(add_indicator=True).fit(part)
    with pytest.warns(UserWarning, match="dropped"):
        found = weighted.transform(table)
    with pytest.warns(UserWarning, match="dropped"):
        np.testing.assert_allclose(found, expected.transform(table), rtol=1e-6)


def test_clone_and_pickle(table, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(table), fitted.transform(table))
    copied = clone(fitted.set_params(estimator__n_draws=16))
    fitted.set_params(estimator__n_draws=32)
    assert copied.estimator.n_draws == 16
    with pytest.raises(NotFittedError):
        copied.transform(table)


def test_the_model_that_is_given_stays_unfitted(table):
    given = model()
    fitted = GaussianVAEImputer(given, random_state=0).fit(table)
    assert fitted.estimator is given
    assert given.random_state is None
    with pytest.raises(NotFittedError):
        given.impute(table)


def test_seeds_of_the_model(table, fitted):
    X = imputer().fit_transform(table)
    np.testing.assert_array_equal(X, fitted.transform(table))
    assert not np.array_equal(imputer(random_state=1).fit_transform(table), X)
    own = GaussianVAEImputer(model(random_state=0), random_state=1)
    np.testing.assert_array_equal(own.fit_transform(table), X)


def test_the_default_is_a_model_with_the_seed_of_the_imputer(table):
    small = GaussianVAEImputer(random_state=3).fit(table[:12, :2])
    assert small.estimator_.get_params() == GaussianVAE(random_state=3).get_params()


@pytest.mark.parametrize("marker", [np.nan, pd.NA, -1])
def test_tags(marker):
    tags = get_tags(imputer(missing_values=marker))
    assert tags.input_tags.allow_nan is (marker is not -1)
    assert tags.requires_fit
    assert not tags.input_tags.sparse
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]


# What is refused, and what fails


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"estimator": GaussianVAERegressor()}, "'estimator' .* instance of '.*GaussianVAE'"),
        ({"estimator": GaussianVAE}, "'estimator' .* instance of '.*GaussianVAE'"),
        ({"statistic": "mode"}, "'statistic' .*'mean'.* Got 'mode'"),
        ({"missing_values": "?"}, "'missing_values' .* Got '\\?'"),
        ({"estimator__n_draws": 0}, "'n_draws' parameter of GaussianVAE must be"),
    ],
)
def test_errors_name_the_parameter(params, message, table):
    with pytest.raises(ValueError, match=message):
        imputer().set_params(**params).fit(table)


def test_a_statistic_that_is_set_after_fit(table, fitted):
    other = pickle.loads(pickle.dumps(fitted)).set_params(statistic="mode")
    with pytest.raises(ValueError, match=r"statistic must be one of .*, got 'mode'"):
        other.transform(table)


def test_dates_are_refused(table):
    X = pd.DataFrame(table, columns=NAMES).assign(day=pd.Timestamp("2024-01-01"))
    with pytest.raises(ValueError, match="'day' of X holds dates"):
        imputer().fit(X)


class Interrupts(Callback):
    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            raise KeyboardInterrupt


def test_an_interrupted_fit_keeps_the_best_epoch(table):
    stopped = imputer(add_indicator=True)
    stopped.set_params(estimator__net_params={"callbacks": [Interrupts()]})
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(table)
    assert np.isfinite(stopped.transform(table)).all()


def test_a_fit_that_fails_leaves_nothing_behind(table):
    failed = imputer().fit(table)
    failed.set_params(estimator__min_noise=1e-300)
    with pytest.raises(ValueError, match="min_noise"):
        failed.fit(table)
    with pytest.raises(NotFittedError, match="GaussianVAEImputer"):
        failed.transform(table)
