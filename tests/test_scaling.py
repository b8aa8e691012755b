"""Units, and the noise floor that respects a column's grid."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._scaling import grid_noise


def floors(X):
    return grid_noise(X, np.ones(X.shape[1]), 0.003)


@pytest.mark.parametrize("n", [10, 48, 50, 51, 140, 141, 3000])
def test_floor_of_a_grid_does_not_depend_on_the_number_of_rows(n):
    rng = np.random.default_rng(0)
    X = np.c_[np.arange(n) % 2, rng.integers(1, 6, n), 0.1 * rng.integers(0, 4, n)]
    expected = np.array([1, 1, 0.1]) / np.sqrt(12)
    np.testing.assert_allclose(floors(X.astype(float)), expected, rtol=1e-6)


def test_floor_rises_without_a_jump_as_values_repeat():
    X = [(np.arange(200) % m).astype(float)[:, None] for m in range(10, 201)]
    found = np.concatenate([floors(x) for x in X])
    assert found[0] == pytest.approx(1 / np.sqrt(12))
    assert found[-1] == 0.003
    assert np.abs(np.diff(found)).max() < 0.01


def test_floor_of_values_that_do_not_repeat_is_the_least():
    X = np.random.default_rng(0).standard_normal((500, 2))
    np.testing.assert_array_equal(floors(X), 0.003)


def test_floor_is_blind_to_the_last_bit_of_a_float():
    rng = np.random.default_rng(0)
    x = 1 + rng.integers(0, 16, 2000) * 0.02
    noisy = np.where(rng.random(2000) < 0.5, x, np.nextafter(x, 2))
    np.testing.assert_allclose(floors(noisy[:, None]), floors(x[:, None]), rtol=1e-6)
    assert floors(x[:, None])[0] == pytest.approx(0.02 / np.sqrt(12))


def test_one_more_row_moves_no_score_by_much():
    rng = np.random.default_rng(5)
    X, fresh = (
        np.c_[rng.standard_normal((n, 2)), rng.random((n, 2)) < 0.4].astype(float)
        for n in (51, 400)
    )
    scores = [GaussianVAE(max_epochs=0, random_state=0).fit(X[:n]).score(fresh) for n in (50, 51)]
    assert abs(scores[0] - scores[1]) < 0.5


FRAME = {"x": np.arange(40.0), "when": np.arange("2024-01-01", "2024-02-10", dtype="M8[D]")}
TABLES = {
    "pandas": lambda: pd.DataFrame(FRAME),
    "pandas objects": lambda: pd.DataFrame(FRAME).assign(when=lambda d: d["when"].astype(object)),
    "pandas periods": lambda: pd.DataFrame(FRAME).assign(
        when=lambda d: d["when"].dt.to_period("D")
    ),
    "pandas durations": lambda: pd.DataFrame(FRAME).assign(
        when=lambda d: d["when"] - d["when"][0]
    ),
    "polars": lambda: pl.DataFrame(FRAME),
}


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
@pytest.mark.parametrize("table", TABLES)
def test_columns_of_dates_are_refused_by_name(kind, table):
    X, y = TABLES[table](), np.arange(40) % 2
    for method in "fit", "partial_fit":
        with pytest.raises(ValueError, match="Column 'when' of X holds dates or times"):
            getattr(kind(), method)(X, y)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_tables_of_dates_alone_are_refused(kind):
    X = FRAME["when"].reshape(20, 2)
    for dates in X, pd.DataFrame(X, columns=["a", "b"]), X.tolist():
        with pytest.raises(ValueError, match="X holds dates or times"):
            kind().fit(dates, np.arange(20) % 2)
    model = kind(max_epochs=1, hidden_layer_sizes=(4,)).fit(
        np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 40),
        np.arange(40) % 2,
    )
    with pytest.raises(ValueError, match="X holds dates or times"):
        model.transform(X)


@pytest.mark.parametrize("as_table", [np.asarray, pd.Series, list])
def test_targets_of_dates_are_refused(as_table):
    X, dates = np.arange(40.0)[:, None], as_table(FRAME["when"])
    with pytest.raises(ValueError, match="y holds dates or times"):
        GaussianVAERegressor().fit(X, dates)
    with pytest.raises(ValueError, match="X_target holds dates or times"):
        GaussianVAEClassifier().fit(X, np.arange(40) % 2, X_target=dates)
