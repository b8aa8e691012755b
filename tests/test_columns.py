"""Columns as they are: kinds that are found, scores that are densities, rows that are possible."""

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAEImputer, GaussianVAERegressor
from skgvae.model_selection import StackedGridSearchCV

FEW = {"max_epochs": 5, "n_estimators": 2, "hidden_layer_sizes": (16,), "random_state": 0}


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    k = rng.integers(3, size=400)
    return pd.DataFrame(
        {
            "job": pd.Categorical(np.array(["c", "a", "b"])[k], categories=["c", "a", "b"]),
            "age": rng.poisson(20 + 10 * k),
            "pay": np.exp(rng.normal(k, 0.5)),
            "gift": np.where(rng.random(400) < 0.5, 0, np.round(np.exp(rng.normal(3, 1, 400)), 2)),
            "member": rng.random(400) < 0.2 + 0.3 * k,
            "score": rng.standard_normal(400) + k,
        }
    )


@pytest.fixture(scope="module")
def fitted(frame):
    return GaussianVAE(**FEW).fit(frame)


# Which kinds there are


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(50.0) - 20, "integer"),
        (np.arange(50.0), "integer from 0 to inf"),
        (np.arange(50.0) % 2, "integer from 0 to 1"),
        (np.arange(50) / 8 + 1, "grid step=0.001 from 0 to inf"),
        (-np.arange(50) / 10, "grid step=0.1"),
        (np.arange(50).astype(np.float32) / np.float32(10) - 3, "grid step=0.1"),
        (np.arange(50) / 7, "positive"),  # zero is one value of fifty
        (np.r_[np.zeros(10), np.arange(40) / 7], "grid step=0.001 from 0 to inf"),
        (np.r_[np.zeros(10), 1e5 * np.arange(40) / 7], "grid step=100 from 0 to inf"),
        (np.r_[np.zeros(10), np.arange(40) / 7 - 1], "continuous"),
        (np.arange(50) / 7 - 1, "continuous"),
        (np.r_[np.arange(50.0), 0.123456], "integer from 0 to inf"),
        (np.full(50, 3.0), "continuous"),
        (np.arange(19.0), "continuous"),
        (1e-9 * np.arange(50) / 7 - 1e-9, "continuous"),
        (1e-30 * np.arange(1, 51) / 7, "positive"),
        (np.r_[np.arange(50.0), np.full(50, np.nan)], "integer from 0 to inf"),
    ],
)
def test_kinds_of_numbers(values, kind):
    other = np.random.default_rng(0).standard_normal(len(values))
    vae = GaussianVAE(max_epochs=0).fit(np.c_[values, other])
    assert repr(vae.columns_[0]) == kind
    assert repr(vae.columns_[1]) == "continuous"


def test_kinds_of_a_table(fitted):
    found = {name: repr(column) for name, column in fitted.columns_.items()}
    assert found == {
        "job": "categorical 3 levels",
        "age": "integer from 0 to inf",
        "pay": "positive",
        "gift": "grid step=0.01 from 0 to inf",
        "member": "categorical 2 levels",
        "score": "continuous",
    }
    assert fitted.columns_["job"].levels == ("c", "a", "b")  # in the order of the category


def test_kinds_do_not_depend_on_the_rows():
    rng = np.random.default_rng(0)
    X = np.c_[
        rng.poisson(3, 600), np.round(rng.normal(size=600), 2), np.exp(rng.normal(size=600)),
        rng.standard_normal(600), rng.random(600) < 0.1,
    ]  # fmt: skip
    for seed in range(20):
        rows = np.random.default_rng(seed).permutation(600)
        halves = (GaussianVAE(max_epochs=0).fit(X[part]) for part in np.split(rows, 2))
        first, second = ([c.kind for c in vae.columns_.values()] for vae in halves)
        assert first == second == ["integer", "grid", "positive", "continuous", "integer"]


def test_the_user_says_what_a_column_is(frame):
    X = frame[["age", "pay", "score"]].assign(share=np.linspace(0.01, 0.99, 400))
    said = {
        "age": "categorical", "pay": ("grid", 0.25), "score": "continuous", 3: ("bounded", 0, 1)
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"Column 'age' has \d+ names, and a category has at"):
        GaussianVAE(columns=said, **FEW).fit(X.assign(age=np.arange(400)))
    X["age"] %= 4
    vae = GaussianVAE(columns=said, **FEW).fit(X)
    assert [c.kind for c in vae.columns_.values()] == [
        "categorical", "grid", "continuous", "bounded"
    ]  # fmt: skip
    assert vae.columns_["age"].levels == (0.0, 1.0, 2.0, 3.0)
    rows = vae.sample(200, random_state=0)
    assert set(rows[:, 0]) <= {0.0, 1.0, 2.0, 3.0}
    np.testing.assert_array_equal(rows[:, 1].astype(float) % 0.25, 0)
    assert (rows[:, 3].astype(float) > 0).all()
    assert (rows[:, 3].astype(float) < 1).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pay": "natural"}, r"must be one of \('continuous'"),
        ({"wage": "integer"}, "columns has 'wage', which is no column"),
        ({9: "integer"}, "columns has 9, which is no column"),
        ({"score": "positive"}, "'score' is positive, and -.* is no such value"),
        ({"pay": ("bounded", 0, 1)}, r"is bounded from 0 to 1, and .* is no such value"),
        ({"pay": ("bounded", 1, 0)}, "bounds of column 'pay'"),
        ({"pay": ("bounded", 1)}, "another number of numbers"),
        ({"pay": ("grid", -1)}, "must be positive"),
        ({"pay": ("grid", "fine")}, "a kind and numbers"),
        ({"score": "grid"}, "more than 3 decimals: say its step"),
        ({"job": "continuous"}, "'job' holds names"),
        ({"score": None}, "a kind, perhaps with numbers"),
        ("discrete", "'columns' parameter"),
    ],
)
def test_what_cannot_be_said_of_a_column(columns, message, frame):
    with pytest.raises(ValueError, match=message):
        GaussianVAE(columns=columns, **FEW).fit(frame)


def test_all_numbers_as_they_are(frame):
    vae = GaussianVAE(columns="continuous", **FEW).fit(frame.drop(columns="job"))
    kinds = [column.kind for column in vae.columns_.values()]
    assert kinds == ["continuous"] * 3 + ["categorical", "continuous"]


# Scores


def test_rounded_gaussians_have_the_density_of_the_truth():
    rng = np.random.default_rng(0)
    mean, cov = np.array([0.3, -0.4]), np.array([[2.0, 1.2], [1.2, 1.5]])
    X, X_test = (np.round(rng.multivariate_normal(mean, cov, n)) for n in (3000, 400))
    values, place = np.unique(X_test, axis=0, return_inverse=True)
    truth = multivariate_normal(mean, cov)
    expected = np.log([truth.cdf(x + 0.5, lower_limit=x - 0.5) for x in values])[place.ravel()]
    vae = GaussianVAE(n_estimators=2, random_state=0).fit(X)
    assert vae.score(X_test) == pytest.approx(expected.mean(), abs=0.02)
    start = GaussianVAE(max_epochs=0, prior="standard").fit(X)  # a rounded Gaussian itself
    assert start.score(X_test) == pytest.approx(expected.mean(), abs=0.01)
    everything = np.array(list(itertools.product(range(-12, 13), repeat=2)), dtype=float)
    total = np.exp(vae.score_samples(everything)).sum()
    assert total == pytest.approx(1, abs=0.02)


def test_a_density_of_all_kinds_integrates_to_one(frame):
    X = frame[["member", "pay", "age"]].assign(age=frame["age"] % 4)
    vae = GaussianVAE(**FEW).fit(X)
    pay = np.exp(np.linspace(-8, 8, 200))
    total = 0.0
    for member, age in itertools.product([False, True], range(25)):
        rows = pd.DataFrame({"member": member, "pay": pay, "age": age})
        total += np.trapezoid(np.exp(vae.score_samples(rows)), pay)
    assert total == pytest.approx(1, abs=0.02)


def test_a_bounded_density_integrates_to_one():
    rng = np.random.default_rng(0)
    X = rng.beta(2, 5, (300, 1)) * 3 - 1
    vae = GaussianVAE(columns={0: ("bounded", -1, 2)}, **FEW).fit(X)
    x = np.linspace(-1, 2, 2001)[1:-1]
    assert np.trapezoid(np.exp(vae.score_samples(x[:, None])), x) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_unit_of_a_grid_is_that_of_a_density(factor):
    X = load_iris().data  # in tenths
    a, b = (GaussianVAE(max_epochs=0, random_state=0).fit(Z) for Z in (X, factor * X))
    assert b.columns_[0].step == pytest.approx(0.1 * factor)
    shift = 4 * np.log(factor)
    np.testing.assert_allclose(b.score_samples(factor * X), a.score_samples(X) - shift, atol=1e-3)


def test_kinds_do_not_change_the_unit_of_a_score():
    # Fine grids and positive values far from zero are continuous columns by another name.
    X = np.random.default_rng(0).multivariate_normal([50, 0], [[4, 1], [1, 1]], 2000)
    rough = np.c_[X[:, 0], np.round(X[:, 1], 2)]
    params = {"max_epochs": 0, "prior": "standard"}
    vae = GaussianVAE(**params).fit(rough)
    assert [c.kind for c in vae.columns_.values()] == ["positive", "grid"]
    other = GaussianVAE(**params, columns="continuous").fit(rough)
    np.testing.assert_allclose(vae.score(rough), other.score(rough), atol=2e-3)


def test_incomplete_rows_have_marginal_densities(frame):
    X = frame[["job", "age"]]
    vae = GaussianVAE(**FEW).fit(X)
    names = pd.DataFrame({"job": ["a", "b", "c"], "age": np.full(3, np.nan)})
    assert np.exp(vae.score_samples(names)).sum() == pytest.approx(1, abs=0.02)
    both = pd.DataFrame({"job": ["a"] * 100, "age": np.arange(100)})
    assert np.log(np.exp(vae.score_samples(both)).sum()) == pytest.approx(
        vae.score_samples(names)[0], abs=0.05
    )


@pytest.mark.parametrize(("name", "value"), [("pay", -1.0), ("age", -2), ("gift", -0.01)])
def test_a_value_that_a_column_cannot_have(name, value, fitted, frame):
    rows = frame[:4].copy()
    rows[name] = [value, *rows[name][1:]]
    with pytest.warns(UserWarning, match=f"1 rows have values .*'{name}'"):
        scores = fitted.score_samples(rows)
    assert scores[0] == -np.inf
    assert np.isfinite(scores[1:]).all()
    with pytest.warns(UserWarning, match="density of zero"):
        assert fitted.elbo(rows)[0] == -np.inf
    assert np.isfinite(fitted.transform(rows)).all()
    with pytest.raises(ValueError, match=f"Column '{name}' is .* no such value"):
        pickle.loads(pickle.dumps(fitted)).partial_fit(rows)


def test_a_value_that_a_column_cannot_have_is_not_given(fitted):
    with pytest.raises(ValueError, match=r"columns cannot have: \{'pay': positive\}"):
        fitted.sample(given={"pay": -1.0, "job": "a"})
    with pytest.raises(ValueError, match="Column 'job' has 'd'"):
        fitted.sample(given={"job": "d"})


def test_a_value_off_the_grid_has_the_density_of_its_interval(fitted, frame):
    rows = frame[:3].copy()
    rows["age"] = rows["age"] + np.array([0.0, 0.3, -0.4])
    np.testing.assert_allclose(fitted.score_samples(rows)[0], fitted.score_samples(frame[:1])[0])
    assert np.isfinite(fitted.score_samples(rows)).all()


# Rows that come out


def check_possible(rows, frame):
    assert set(rows["job"].unique()) <= set("abc")
    assert rows["member"].isin([True, False]).all()
    for name in "age", "pay", "gift":
        assert (rows[name].astype(float) >= 0).all()
    assert (rows["pay"].astype(float) > 0).all()
    np.testing.assert_array_equal(rows["age"].astype(float) % 1, 0)
    cents = rows["gift"].astype(float) * 100
    np.testing.assert_allclose(cents, np.round(cents), atol=1e-6)


def as_frame(rows, frame):
    return pd.DataFrame(rows, columns=frame.columns)


def test_everything_that_comes_out_is_a_possible_row(fitted, frame):
    holes = frame.astype(object).mask(np.random.default_rng(0).random(frame.shape) < 0.3)
    outputs = (
        fitted.sample(500, random_state=0),
        fitted.sample(50, random_state=0, given={"job": "b"}),
        fitted.reconstruct(frame),
        fitted.reconstruct(holes),
        fitted.inverse_transform(fitted.transform(frame)),
        fitted.impute(holes),
        fitted.impute(holes, statistic="median"),
        *fitted.impute(holes, n_imputations=2, random_state=0),
    )
    for rows in outputs:
        assert rows.dtype == object
        check_possible(as_frame(rows, frame), frame)
    known = holes.notna().to_numpy()
    for rows in outputs[5:]:
        assert (rows[known] == frame.astype(object).to_numpy()[known]).all()
    means = as_frame(fitted.impute(holes, statistic="mean"), frame)
    assert (means["age"].astype(float) % 1 != 0).any()  # the user asked for it
    assert set(outputs[1][:, 0]) == {"b"}


def test_a_table_where_one_is_asked_for(frame):
    holes = frame.astype({"age": "Int64"})
    holes.loc[::3, "age"] = pd.NA
    vae = GaussianVAE(**FEW).set_output(transform="pandas").fit(frame)
    for rows in (vae.sample(30, random_state=0), vae.impute(holes), vae.reconstruct(frame)):
        assert rows.dtypes.to_dict() == frame.dtypes.to_dict()
        assert list(rows["job"].cat.categories) == ["c", "a", "b"]
        check_possible(rows, frame)
    numbers = GaussianVAE(**FEW).fit(frame[["pay", "score"]])
    assert numbers.sample(3, random_state=0).dtype == float


def test_means_of_integers_have_decimals_in_any_table(frame):
    holes = frame.astype({"age": float})
    holes.loc[::3, "age"] = np.nan
    vae = GaussianVAE(**FEW).set_output(transform="pandas").fit(frame)
    assert (vae.impute(holes, statistic="mean")["age"] % 1 != 0).any()


def test_a_classifier_estimates_names_too(frame):
    X, y = frame[["job", "age"]], frame["member"]
    model = GaussianVAEClassifier(**FEW).fit(X, y)
    mean, std = model.predict_target(X, return_std=True)
    assert set(mean[:, 0]) <= set("abc")
    assert np.isnan(std[:, 0].astype(float)).all()
    assert set(model.sample(X[:50], 2, random_state=0)[..., 0].ravel()) <= set("abc")


def test_a_number_is_tied_to_its_name():
    rng = np.random.default_rng(0)
    k = rng.integers(4, size=600)
    X = pd.DataFrame({"name": np.array(list("abcd"))[k], "x": 10 * k + rng.normal(size=600)})
    vae = GaussianVAE(n_estimators=2, random_state=0).fit(X)
    rows = vae.sample(1000, random_state=0)
    own = np.array(["abcd".index(name) for name in rows[:, 0]])
    assert (np.round(rows[:, 1].astype(float) / 10) == own).mean() > 0.95
    assert vae.score(X) == pytest.approx(-np.log(4) - norm.entropy(), abs=0.05)
    found = vae.impute(X.assign(name=None))[:, 0]
    assert (found == X["name"]).mean() > 0.95


def test_amounts_that_are_often_zero(frame):
    X = frame[["gift", "score"]]
    vae = GaussianVAE(n_estimators=2, random_state=0).fit(X)
    gift = vae.sample(4000, random_state=0)[:, 0]
    assert (gift == 0).mean() == pytest.approx((X["gift"] == 0).mean(), abs=0.05)
    below = np.median(X["gift"][X["gift"] > 0])
    assert (gift[gift > 0] < below).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_copies_count_when_kinds_are_found():
    rng = np.random.default_rng(0)
    gift = np.where(rng.random(400) < 0.4, 0, np.exp(rng.normal(3, 1, 400)))
    vae = GaussianVAE(n_estimators=2, random_state=0).fit(gift[:, None])
    assert vae.columns_[0].kind == "grid"
    share = (vae.sample(2000, random_state=0) == 0).mean()
    assert share == pytest.approx((gift == 0).mean(), abs=0.05)


def test_a_table_keeps_its_index_and_narrow_integers(frame):
    X = pd.DataFrame(
        {"pixel": np.random.default_rng(0).integers(200, 256, 300).astype("uint8"),
         "job": np.resize(["a", "b"], 300)},
        index=np.arange(300) + 1000,
    )  # fmt: skip
    holes = X.copy()
    holes.loc[1000:1050, "job"] = None
    vae = GaussianVAE(**FEW).set_output(transform="pandas").fit(X)
    assert (vae.sample(1000, random_state=0)["pixel"] > 100).all()
    for rows in (
        vae.impute(holes),
        vae.reconstruct(holes),
        vae.inverse_transform(vae.transform(X)),
    ):
        assert (rows.index == X.index).all()
    imputer = GaussianVAEImputer(GaussianVAE(columns={"pixel": "continuous"}, **FEW))
    columns = ColumnTransformer([("impute", imputer, ["pixel", "job"])])
    assert (columns.set_output(transform="pandas").fit_transform(holes).index == X.index).all()


def test_an_imputer_knows_levels_that_are_numbers():
    X = pd.DataFrame({"size": pd.Categorical(np.resize([1, 5, 90], 90)), "job": ["a"] * 90})
    X.loc[::4, "size"] = np.nan
    imputer = GaussianVAEImputer(GaussianVAE(**FEW), sample_posterior=True, random_state=0)
    assert set(imputer.fit_transform(X)[:, 0]) == {1, 5, 90}
    with pytest.raises(ValueError, match="X contains NaN, and -1 marks"):
        GaussianVAEImputer(missing_values=-1).fit(X)


def test_intervals_follow_the_units_of_a_column_that_varies_late():
    rng = np.random.default_rng(0)
    vae = GaussianVAE(columns={0: "integer"}, **FEW)
    vae.partial_fit(np.c_[np.full(40, 5.0), rng.standard_normal(40)])
    for _ in range(5):
        vae.partial_fit(np.c_[rng.integers(0, 1000, 200), rng.standard_normal(200)])
    rows = np.c_[np.arange(4000), np.full(4000, np.nan)]
    assert np.exp(vae.score_samples(rows)).sum() == pytest.approx(1, abs=0.05)
    other = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(other.score_samples(rows[:50]), vae.score_samples(rows[:50]))


def test_bounds_far_from_zero():
    X = np.random.default_rng(0).integers(0, 21, (200, 1)) + 1e8
    vae = GaussianVAE(columns={0: ("integer", 1e8, 1e8 + 20)}, **FEW).fit(X)
    values = 1e8 + np.arange(21.0)[:, None]
    assert np.exp(vae.score_samples(values)).sum() == pytest.approx(1, abs=0.02)


def test_heavy_noise_does_not_bend():
    amounts = np.exp(np.random.default_rng(0).normal(3, 1.5, (150, 1))).round()
    vae = GaussianVAE(noise="student", **FEW).fit(amounts)
    assert vae.reconstruct(amounts, return_std=True)[1].max() < 1e4


def test_displays_of_numbers_say_that_there_are_names(fitted, frame):
    pytest.importorskip("matplotlib")
    from skgvae.display import LatentTraversalDisplay, ReconstructionDisplay

    with pytest.raises(TypeError, match="hold names"):
        LatentTraversalDisplay.from_estimator(fitted)
    with pytest.raises(TypeError, match="hold names"):
        ReconstructionDisplay.from_estimator(fitted, frame[:3])
    numbers = GaussianVAE(**FEW).set_output(transform="pandas").fit(frame[["age", "score"]])
    LatentTraversalDisplay.from_estimator(numbers)
    ReconstructionDisplay.from_estimator(numbers, frame[["age", "score"]][:3])


# Names


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor])
def test_names_that_were_not_there(kind, frame):
    X, y = frame[["job", "score"]], frame["age"] % 2
    new = X.assign(job=X["job"].cat.add_categories("d"))
    new.loc[:5, "job"] = "d"
    with pytest.raises(ValueError, match="Column 'job' has 'd', which is none of"):
        kind(**FEW).fit(X, y).transform(new)
    holes = new.assign(job=new["job"].astype(object).where(new["job"] != "d"))
    holes.loc[6, "job"] = None
    model = kind(**FEW, handle_unknown="ignore").fit(holes, y)
    both = (table.astype({"job": object}) for table in (new, holes))
    a, b = (model.transform(table[:6]) for table in both)
    np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("container", ["frame", "objects", "lists", "polars"])
def test_names_in_any_container(container, fitted, frame):
    expected = fitted.score_samples(frame[:20])
    rows = frame[:20].astype(object)
    if container == "polars":
        polars = pytest.importorskip("polars")
        rows = polars.DataFrame({name: rows[name].tolist() for name in rows})
    elif container != "frame":
        rows = rows.to_numpy() if container == "objects" else rows.to_numpy().tolist()
    found = fitted.score_samples(rows)
    np.testing.assert_allclose(found, expected)


def test_numbers_and_names_are_not_exchanged(fitted, frame):
    with pytest.raises(ValueError, match="Column 'score' held numbers in fit"):
        fitted.transform(frame.assign(score="high"))
    with pytest.raises(ValueError, match=r"Column 'job' has 1\.0, which is none of"):
        fitted.transform(frame.assign(job=1.0))
    with pytest.raises(ValueError, match="infinity"):
        fitted.transform(frame.assign(score=np.inf))


def test_a_fitted_model_of_all_kinds_is_stored(fitted, frame):
    other = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(other.score_samples(frame[:9]), fitted.score_samples(frame[:9]))
    np.testing.assert_array_equal(
        other.sample(3, random_state=0), fitted.sample(3, random_state=0)
    )


def test_pipelines_searches_and_more_passes(frame):
    y = frame["score"] > 1
    X = frame.drop(columns="score")
    pipeline = make_pipeline(GaussianVAE(**FEW), GaussianVAEClassifier(**FEW))
    assert cross_val_score(pipeline, X, y, cv=2).min() > 0.5
    vae = GaussianVAE(**FEW).partial_fit(frame[:200])
    before = vae.score(frame)
    for _ in range(5):
        vae.partial_fit(frame[200:])
    assert vae.score(frame) > before
    again = GaussianVAE(**FEW, warm_start=True).fit(frame).fit(frame)
    assert again.score(frame) > before


@pytest.mark.parametrize("kind", [GaussianVAEClassifier, GaussianVAERegressor])
def test_names_among_the_inputs_say_something(kind, frame):
    X, y = frame[["job", "member"]], frame["age"]
    y = y > y.median() if kind is GaussianVAEClassifier else y
    params = {"n_estimators": 1, "random_state": 0, "max_epochs": 60}
    assert kind(**params).fit(X, y).score(X, y) > (0.65 if y.dtype == bool else 0.3)


def test_the_imputer_fills_names(frame):
    X = frame[["job", "age", "score"]].astype(object)
    hidden = np.random.default_rng(0).random(X.shape) < 0.2
    holes = X.mask(hidden)
    imputer = GaussianVAEImputer(GaussianVAE(random_state=0, n_estimators=2), add_indicator=True)
    filled = imputer.fit_transform(holes)
    assert filled.shape == (400, 6)
    np.testing.assert_array_equal(filled[:, 3:].astype(bool), hidden)
    assert (filled[:, :3][~hidden] == X.to_numpy()[~hidden]).all()
    guessed = filled[hidden[:, 0], 0] == X["job"].to_numpy()[hidden[:, 0]]
    assert guessed.mean() > 0.5  # a third by chance
    table = imputer.set_output(transform="pandas").transform(holes.infer_objects())
    np.testing.assert_array_equal(table.to_numpy(), filled)
    back = pd.DataFrame(imputer.inverse_transform(filled))
    np.testing.assert_array_equal(back.isna(), hidden)


def test_a_stacked_search_scores_as_models_alone(frame):
    X = frame[["job", "age", "score"]]
    grid = {"kl_weight": [0.5, 1.0]}
    params = {"max_epochs": 3, "n_estimators": 2, "random_state": 0, "hidden_layer_sizes": (8,)}
    searches = (
        search(GaussianVAE(2, **params), grid, cv=2).fit(X)
        for search in (GridSearchCV, StackedGridSearchCV)
    )
    apart, stacked = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(stacked, apart, rtol=1e-5)


@pytest.mark.parametrize("noise", ["homoscedastic", "isotropic"])
def test_names_alone_need_no_noise(noise):
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c"], dtype=object)
    X = names[np.stack([first := rng.integers(3, size=300), first, rng.integers(3, size=300)], 1)]
    model = GaussianVAE(noise=noise, **FEW).fit(X)
    probability = np.exp(model.score_samples([["a", "a", "b"], ["a", "c", "b"]]))
    assert probability[0] > probability[1] > 0
    assert set(model.sample(50).ravel()) <= set(names)
