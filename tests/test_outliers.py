"""Which rows do not belong, and which of their cells?"""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE, GaussianVAEOutlierDetector

COVARIANCE = np.array([[1.0, 0.6, 0.5], [0.6, 1.0, 0.4], [0.5, 0.4, 1.0]])
MEAN = np.array([0.0, 10.0, -20.0])


def gaussian_rows(n, seed):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=n)


def linear(**params):
    """Return a detector whose model is a Gaussian with the covariance of the training rows."""
    own = {"prior": "standard", "max_epochs": 0, "min_noise": 0.003, "random_state": 0}
    return GaussianVAEOutlierDetector(GaussianVAE(n_draws=1024, **own), **params)


def trained(**params):
    own = {"max_epochs": 20, "n_estimators": 2, "hidden_layer_sizes": (16,), "min_noise": 0.1}
    return GaussianVAEOutlierDetector(GaussianVAE(**{**own, **params}), random_state=0)


@pytest.fixture(scope="module", name="gaussian")
def fitted_to_gaussian_rows():
    return linear().fit(gaussian_rows(2000, 0))


def conditional(X, j):
    """Return mean and standard deviation of column j given the others, by the fitted moments."""
    train = gaussian_rows(2000, 0)
    mean, covariance = train.mean(0), np.cov(train.T)
    others = [k for k in range(3) if k != j]
    slope = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
    variance = covariance[j, j] - covariance[j, others] @ slope
    return mean[j] + (X[:, others] - mean[others]) @ slope, np.sqrt(variance)


def test_what_is_expected_of_a_cell_is_its_conditional_distribution(gaussian):
    X = gaussian_rows(200, 1)
    found = gaussian.explain(X)
    train = gaussian_rows(2000, 0)
    for j in range(3):
        mean, std = conditional(X, j)
        truth = mean, norm.ppf(0.05, mean, std), norm.ppf(0.95, mean, std)
        answers = found.expected, found.lower, found.upper
        for answer, exact in zip(answers, truth, strict=True):
            assert np.sqrt(np.mean((answer[:, j] - exact) ** 2)) < 0.15 * std
        truth = -norm.logpdf(X[:, j], mean, std)
        truth -= np.median(-norm.logpdf(train[:, j], *conditional(train, j)))
        assert np.mean(np.abs(found.surprise[:, j] - truth)) < 0.1


def test_a_wrong_cell_is_named(gaussian):
    X = gaussian_rows(100, 2)
    place = np.random.default_rng(0).integers(3, size=100)
    for i, j in enumerate(place):
        X[i, j] += 8 * conditional(X[i : i + 1], j)[1] * (-1) ** i
    found = gaussian.explain(X)
    true = np.stack([-norm.logpdf(X[:, j], *conditional(X, j)) for j in range(3)], 1)
    assert np.mean(found.surprise.argmax(1) == place) >= np.mean(true.argmax(1) == place) - 0.02
    mean, std = conditional(X[place == 1], 1)
    np.testing.assert_allclose(found.expected[place == 1, 1], mean, atol=0.4 * std)
    first = found.frame.iloc[0]
    assert first.surprise == found.frame.surprise.max() == found.surprise.max()
    assert first.value == X[first["row"], first.column]
    assert not first.lower <= first.value <= first.upper


@pytest.mark.parametrize("hidden", [[], [1]])
def test_p_values_of_clean_rows_are_uniform(hidden):
    detector = trained().fit(gaussian_rows(1000, 0))
    X = gaussian_rows(1000, 1)
    X[:, hidden] = np.nan
    p = detector.p_values(X)
    assert p.min() > 0
    assert p.max() <= 1
    assert kstest(p, "uniform").statistic < 0.07
    X[:, 0] += 30
    assert detector.p_values(X).max() < 0.01


def test_p_values_are_counts_of_what_a_model_has_not_seen(gaussian):
    train = gaussian_rows(400, 0)
    detector = linear(contamination="auto").fit(train)  # one model, and nothing is held out
    X = gaussian_rows(50, 1)
    scores, known = detector.score_samples(X), detector.score_samples(train)
    expected = [(1 + np.sum(known <= score)) / 401 for score in scores]
    np.testing.assert_allclose(detector.p_values(X), expected, atol=1e-9)
    assert detector.offset_ == pytest.approx(np.sort(known)[20])


def test_each_model_compares_with_rows_that_it_has_not_seen():
    # To models that know the training rows by heart, fresh rows are unlike these. p-values are not
    # small for that.
    train, X = gaussian_rows(60, 0), gaussian_rows(500, 1)
    params = {
        "max_epochs": 200,
        "validation_fraction": "auto",
        "min_noise": 0.01,
        "kl_weight": 0.5,
    }
    detector = trained(**params, n_estimators=5, prior=8).fit(train)
    assert np.mean(detector.p_values(X) <= 0.1) < 0.25
    assert np.mean(detector.predict(X) == -1) < 0.25


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_share_of_outliers_is_that_of_the_parameter(share):
    X = gaussian_rows(200, 0)
    detector = trained().set_params(contamination=share)
    is_outlier = detector.fit_predict(X) == -1
    assert is_outlier.sum() == 200 * share
    decision = detector.decision_function(X)
    np.testing.assert_array_equal(decision < 0, is_outlier)
    np.testing.assert_allclose(decision, detector.score_samples(X) - detector.offset_)


def test_a_cluster_of_anomalies_is_found_where_the_parameter_says_that_there_may_be_one():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((450, 6))
    cluster = 5 + 0.1 * rng.standard_normal((50, 6))
    X = np.vstack([clean, cluster])
    model = GaussianVAE(max_epochs=30, n_estimators=1, min_noise=0.1, random_state=0)
    naive, told = (
        GaussianVAEOutlierDetector(model, contamination=c).fit(X) for c in ("auto", 0.1)
    )
    assert naive.score_samples(cluster).mean() > naive.score_samples(clean).mean()
    assert told.score_samples(cluster).max() < told.score_samples(clean).min()
    assert (told.predict(cluster) == -1).all()


def test_right_cells_beside_a_wrong_one_are_no_surprise():
    rng = np.random.default_rng(0)
    level = rng.standard_normal((400, 1))
    X = level + 0.3 * rng.standard_normal((400, 6))
    detector = linear().fit(X)
    fresh = rng.standard_normal((30, 1)) + 0.3 * rng.standard_normal((30, 6))
    fresh[:, 2] += 8
    fresh[10:, 4] -= 8
    found = detector.explain(fresh)
    assert (found.surprise[:, 2] > 4).all()
    assert (found.surprise[10:, 4] > 4).all()
    assert np.median(found.surprise[:, [0, 1, 3, 5]]) < 0.5
    assert np.mean(found.surprise[:, [0, 1, 3, 5]] > 4) < 0.05


@pytest.mark.parametrize("wrong", [8.0, 50.0])
@pytest.mark.parametrize(("max_epochs", "random_state"), [(10, 0), (40, 1)])
def test_a_gross_error_leaves_right_cells_alone(wrong, max_epochs, random_state):
    rng = np.random.default_rng(0)
    level = rng.standard_normal(300)
    a, amount, b = level + 0.3 * rng.standard_normal((3, 300))
    table = pd.DataFrame({"a": a, "amount": np.exp(amount), "b": b})
    model = GaussianVAE(max_epochs=max_epochs, n_estimators=2, hidden_layer_sizes=(16,))
    detector = GaussianVAEOutlierDetector(model, random_state=random_state).fit(table)
    found = detector.explain(pd.DataFrame({"a": [wrong], "amount": [1.0], "b": [0.0]}))
    assert found.frame.column.tolist() == ["a"]
    np.testing.assert_allclose(found.expected[0], [0.0, 1.0, 0.0], atol=0.3)


@pytest.mark.parametrize("n_wrong", [1, 2, 3])
def test_several_gross_errors_leave_right_cells_alone(n_wrong):
    rng = np.random.default_rng(1)

    def curve(n):
        t = rng.uniform(-2, 2, (n, 1))
        X = np.hstack([t, t**2, np.sin(2 * t), np.cos(2 * t), t**3 / 4])
        return X + 0.1 * rng.standard_normal(X.shape)

    detector = trained(max_epochs=40).fit(curve(300))
    truth = curve(40)
    X, is_wrong = truth.copy(), np.zeros(truth.shape, bool)
    for i in range(40):
        is_wrong[i, rng.choice(5, n_wrong, replace=False)] = True
    X[is_wrong] += rng.choice([-1, 1], is_wrong.sum()) * rng.choice([50, 1000], is_wrong.sum())
    found = detector.explain(X)
    assert np.mean(found.surprise[~is_wrong] > 4) < 0.05
    assert np.mean(found.surprise[is_wrong] > 4) > 0.99
    error = np.abs(found.expected - truth)[~is_wrong] / truth.std()
    assert np.quantile(error, 0.9) < 1.5


def test_rows_of_which_all_known_cells_are_wrong(gaussian):
    X = np.array([[500.0, -900.0, 1300.0], [np.nan, 900.0, np.nan], MEAN])
    found = gaussian.explain(X)
    np.testing.assert_array_equal(
        found.surprise > 4, [[True] * 3, [False, True, False], [False] * 3]
    )
    one_column = trained().fit(gaussian_rows(100, 0)[:, :1])
    assert (one_column.explain([[100.0], [0.0]]).surprise[:, 0] > 4).tolist() == [True, False]


def test_the_number_of_outliers_is_no_part_of_what_is_said_of_a_row():
    detector = linear().set_params(estimator__n_draws=16).fit(gaussian_rows(2000, 0))
    X = gaussian_rows(1400, 5)
    X[:, 0] += 20  # more cells than are hidden at once
    whole, one = detector.explain(X), detector.explain(X[-2:])
    np.testing.assert_allclose(one.surprise, whole.surprise[-2:], rtol=1e-6)
    assert (whole.surprise.argmax(1) == 0).all()


def test_about_one_clean_row_in_twenty_is_an_outlier_by_default():
    detector = trained().fit(gaussian_rows(1000, 0))
    assert np.mean(detector.predict(gaussian_rows(2000, 1)) == -1) == pytest.approx(0.05, abs=0.03)


def test_tables_of_all_kinds():
    rng = np.random.default_rng(0)
    n = 400
    kind = rng.choice(["cat", "dog"], n)
    table = pd.DataFrame(
        {
            "weight": np.where(kind == "cat", 4.0, 20.0) + rng.normal(size=n),
            "kind": pd.Categorical(kind),
            "legs": np.where(rng.random(n) < 0.05, 3, 4),
            "empty": np.nan,
        },
        index=[f"row {i}" for i in range(n)],
    )
    with pytest.warns(UserWarning, match=r"\['empty'\] of X is known"):
        detector = trained(max_epochs=60, columns={"legs": "integer"}).fit(table)
    rows = table.iloc[:4].copy()
    rows["weight"] = [4.0, 20.0, 20.0, np.nan]
    rows["kind"] = pd.Categorical(["cat", "dog", "cat", None], categories=["cat", "dog"])
    found = detector.explain(rows)
    assert found.expected.shape == found.surprise.shape == found.lower.shape == (4, 4)
    assert found.expected[:2, 1].tolist() == ["cat", "dog"]
    assert found.expected[:2, 0] == pytest.approx([4, 20], abs=1.5)
    assert set(found.expected[:, 2]) == {4.0}
    # A cat of 20: one of the two is blamed, and then the other is no surprise.
    assert found.frame["row"].tolist() == ["row 2"]
    if found.frame.column[0] == "kind":
        assert found.expected[2, 1] == "dog"
    else:
        assert found.expected[2, 0] == pytest.approx(4, abs=1.5)
    assert np.isnan(found.surprise[3, :2]).all()
    assert np.isnan(found.surprise[:, 3]).all()
    assert np.isnan(found.lower[:, 1].astype(float)).all()
    p = detector.p_values(rows)
    assert p[2] < 0.05 < min(p[0], p[1], p[3])
    assert detector.n_features_in_ == 4
    assert detector.feature_names_in_.tolist() == ["weight", "kind", "legs", "empty"]


@pytest.mark.filterwarnings("ignore:1 rows have values that their columns cannot have")
def test_a_value_that_a_column_cannot_have_is_to_blame():
    rng = np.random.default_rng(0)
    X = np.stack([rng.lognormal(size=200), rng.standard_normal(200)], 1)
    detector = trained(max_epochs=3).fit(X)
    rows = X[:2].copy()
    rows[0, 0] = -1.0
    assert detector.predict(rows)[0] == -1
    found = detector.explain(rows)
    assert found.surprise[0, 0] == np.inf
    assert np.isfinite(found.surprise[0, 1])
    assert found.frame["row"][0] == 0
    assert detector.p_values(rows)[0] == pytest.approx(1 / 81)  # two of five folds


def test_rows_with_holes_in_training_too():
    X = gaussian_rows(600, 0)
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    detector = trained().fit(X)
    found = detector.explain(X[:50])
    np.testing.assert_array_equal(np.isnan(found.surprise), np.isnan(X[:50]))
    assert np.isfinite(found.expected).all()


def with_holes(X, seed):
    return np.where(np.random.default_rng(seed).random(X.shape) < 0.2, np.nan, X)


@pytest.mark.parametrize("n", [200, 600])
def test_neither_complete_nor_incomplete_rows_are_outliers_after_training_on_holes(n):
    rng = np.random.default_rng(0)
    slopes = rng.standard_normal((4, 12))

    def clean_rows(n):
        return rng.standard_normal((n, 4)) @ slopes + 0.7 * rng.standard_normal((n, 12))

    detector = trained(n_estimators=5).fit(with_holes(clean_rows(n), 1))
    fresh = clean_rows(400)
    some = fresh.copy()
    some[:, [1, 5]] = np.nan
    p = detector.p_values(fresh), detector.p_values(some)
    assert all(kstest(own, "uniform").statistic < 0.1 for own in p)
    for X in (fresh, some, with_holes(fresh, 2)):
        assert np.mean(detector.predict(X) == -1) < 0.1
    fresh[:, 0] += 20
    is_known = ~np.isnan(with_holes(fresh, 2)[:, 0])
    assert np.mean(detector.predict(with_holes(fresh, 2))[is_known] == -1) > 0.9


def test_rows_without_a_known_cell_are_neither_likely_nor_unlikely():
    detector = trained().fit(gaussian_rows(300, 0))
    X = np.full((2, 3), np.nan)
    X[1] = MEAN
    scores = detector.score_samples(X)
    assert scores[0] == pytest.approx(detector.score_samples(gaussian_rows(300, 1)).mean(), abs=2)
    assert detector.predict(X).tolist() == [1, 1]
    assert detector.p_values(X)[0] == 1.0
    found = detector.explain(X)
    assert np.isnan(found.surprise[0]).all()
    np.testing.assert_allclose(found.expected[0], MEAN, atol=0.3)


def test_rows_that_all_models_have_seen_count_once():
    detector = trained(n_estimators=5, validation_fraction=None).fit(gaussian_rows(40, 0))
    X = gaussian_rows(50, 1)
    X[:, 0] += 50
    np.testing.assert_allclose(detector.p_values(X), 1 / 41)


@pytest.mark.parametrize(
    ("params", "groups"),
    [({"validation_fraction": 0.3}, None), ({}, np.arange(300) % 4)],
)
def test_fewer_folds_than_models(params, groups):
    detector = trained(n_estimators=5, **params).fit(gaussian_rows(300, 0), groups=groups)
    p = detector.p_values(gaussian_rows(300, 1))
    assert kstest(p, "uniform").statistic < 0.15
    assert p.min() >= 1 / 301 - 1e-9
    X = gaussian_rows(1, 1)
    X[:, 0] += 100
    np.testing.assert_allclose(detector.p_values(X), 1 / 301)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_p_values_are_uniform_with_rows_left_out_of_the_training(share):
    detector = trained(n_estimators=5).set_params(contamination=share)
    detector.fit(gaussian_rows(600, 0))
    X = gaussian_rows(600, 1)
    p = detector.p_values(X)
    assert kstest(p, "uniform").statistic < 0.1
    X[:, 1] = np.nan
    assert kstest(detector.p_values(X), "uniform").statistic < 0.12


def test_the_bandwidth_of_the_fit_holds():
    X = gaussian_rows(200, 0)
    detector = trained().fit(X)
    answers = detector.predict(X), detector.p_values(X)
    detector.set_params(bandwidth=3.0)
    np.testing.assert_array_equal(answers, (detector.predict(X), detector.p_values(X)))
    assert not np.array_equal(detector.fit(X).score_samples(X), answers[0])


def test_rows_of_little_weight_do_not_say_what_is_typical():
    X = gaussian_rows(400, 0)
    X[200:] += 6 * np.random.default_rng(0).standard_normal((200, 3))
    weight = np.repeat([1.0, 1e-3], 200)
    found = trained().fit(X, sample_weight=weight).explain(X[:200])
    assert np.median(found.surprise, 0) == pytest.approx(0, abs=0.1)


def test_what_is_warned_of_is_said_once():
    X = np.hstack([gaussian_rows(100, 0), np.full((100, 1), np.nan)])
    detector = trained(max_epochs=2).set_params(contamination=0.1)
    with pytest.warns(UserWarning, match="known") as caught:
        detector.fit(X)
    assert len(caught) == 1


def test_a_change_in_a_constant_column_is_an_outlier():
    X = np.hstack([gaussian_rows(300, 0), np.full((300, 1), 3.0)])
    detector = trained().fit(X)
    row = np.append(MEAN, 3.5)[None]
    assert detector.predict(row) == -1
    assert detector.explain(row).frame.column.tolist() == [3]
    assert detector.predict(np.append(MEAN, 3.0)[None]) == 1


def test_two_rows_are_needed_beside_the_outliers():
    with pytest.raises(ValueError, match=r"contamination=0.5 leaves 1 row"):
        trained().set_params(contamination=0.5).fit(gaussian_rows(2, 0))


def test_saved_detectors_answer_alike():
    X = gaussian_rows(100, 0)
    detector = trained().fit(X)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.p_values(X[:9]), detector.p_values(X[:9]))
    np.testing.assert_array_equal(again.explain(X[:9]).surprise, detector.explain(X[:9]).surprise)


def test_answers_depend_on_the_row_alone(gaussian):
    X = gaussian_rows(20, 3)
    X[3, 1] = 40.0
    whole, one = gaussian.explain(X), gaussian.explain(X[3:4])
    for name in ("expected", "lower", "upper", "surprise"):
        np.testing.assert_allclose(one[name], whole[name][3:4], rtol=1e-6)


def test_a_detector_is_a_step_of_a_pipeline():
    X = gaussian_rows(100, 0)
    pipe = make_pipeline(StandardScaler(), trained()).fit(X)
    assert set(pipe.predict(np.vstack([X[:3], [[50.0, 0.0, 0.0]]]))) == {1, -1}


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, np.nan])
def test_coverage_is_a_probability(coverage, gaussian):
    with pytest.raises(ValueError, match="coverage"):
        gaussian.explain(gaussian_rows(3, 0), coverage=coverage)


def test_a_failed_fit_leaves_the_detector_as_it_was():
    X = gaussian_rows(50, 0)
    detector = trained().fit(X)
    known = detector.score_samples(X)
    with pytest.raises(ValueError, match="infinity"):
        detector.fit(np.full((3, 3), np.inf))
    np.testing.assert_array_equal(detector.score_samples(X), known)
