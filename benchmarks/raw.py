"""Held-out scores of raw tables: ours beside a mixture of products and a flow.

    python benchmarks/raw.py DATA [--sets ad_pima iris ...] [--splits 1] [--small]

DATA is a folder of ``<name>.npz`` files; iris, wine and breast_cancer come with scikit-learn.
No column is dequantised: integers and rounded numbers are scored as they are. At most 2000 rows
are drawn at random. Identical rows are on one side of a split, and a quarter of the rows is for
testing. Columns that are constant in the training rows are left out.

Scores are in nats a row, in the units of the table, means over the test rows. A value on a grid
counts log P(cell) - log(step). That is the log of a density which is constant around each value,
so scores of all models but "as continuous" have one unit:

- ours: ``GaussianVAE().score_samples``. The grids that it finds are those of the other models.
- mixture: GaussianMixture with diagonal covariances. Each component is integrated over the cells.
  Number of components and floor of the variances are tuned by five-fold cross-validation.
- flow: the neural spline flow of density.py, fitted to rows with uniform noise, one step wide, in
  the columns on grids. Its score is the log of the mean density over 16 draws of this noise, which
  is tighter than the mean of the logarithms. On average it is still below its log P(cell). It is
  left out if zuko is not installed.
- as continuous: ``GaussianVAE(columns="continuous")``. A Gaussian on a value of a grid may exceed
  1 / step. So this number is no probability of a cell and is no better for being larger.

"Zero" counts the test rows to which ours gives a density of zero, as a value is outside of the
support of its column. All means are over the other rows. Seconds are processor time of one fit.

If reg_wine_red is among the sets, another table shows the log probability of a wine's grade given
the other columns. Ours is fitted to [X, grade] as one table, and its scores of a row with each
grade are normalised. "Ordinal" is a proportional-odds model, "frequencies" are those of the
training rows. ``--small`` takes 120 rows and short fits: one only sees that everything works.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from density_models import MISSING, flow
from density_sets import load
from scipy.optimize import minimize
from scipy.special import expit, log_ndtr, logsumexp, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    StratifiedGroupKFold,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

SETS = (
    "ad_breastw", "ad_pima", "reg_wine_red", "imp_wine_white", "reg_concrete", "ad_glass",
    "wine", "iris", "breast_cancer", "ad_annthyroid", "imp_yeast",
)  # fmt: skip
GRADED = "reg_wine_red"  # of which y is an integer
MAX_ROWS = 2000
N_NOISE = 16  # draws of the flow's noise
COMPONENTS = 1, 2, 4, 8, 16, 32, 64
FLOORS = 1e-6, 1e-4, 1e-3, 1e-2, 1e-1  # of variances of standardised columns


def prepare(X, max_rows):
    """Return rows in random order, at most so many, and the group of each: identical rows."""
    X = X[np.random.default_rng(0).permutation(len(X))[:max_rows]]
    return X, np.unique(X, axis=0, return_inverse=True)[1].ravel()


def split(X, groups, k):
    """Return training and test rows without constant columns, and groups of the training rows."""
    splitter = GroupShuffleSplit(1, test_size=0.25, random_state=k)
    train, test = next(splitter.split(X, groups=groups))
    varies = np.ptp(X[train], axis=0) > 0
    return X[train][:, varies], X[test][:, varies], groups[train]


# Scores of a mixture of products


class Grid:
    """The intervals of a table's columns; ``step`` is zero in a continuous one."""

    def __init__(self, columns):
        self.step = np.array([column.step for column in columns])
        self.low = np.array([column.low for column in columns])
        self.high = np.array([column.high for column in columns])

    @property
    def is_gridded(self):
        """Say which columns are on a grid."""
        return self.step > 0

    def edges(self, X):
        """Return where the cells begin and end; the first and the last cell have no end."""
        below = np.where(self.low + 0.5 * self.step > X, -np.inf, X - 0.5 * self.step)
        above = np.where(self.high - 0.5 * self.step < X, np.inf, X + 0.5 * self.step)
        return below, above

    def with_noise(self, X, rng):
        """Return rows with uniform noise, one step wide."""
        return X + self.step * (rng.random(X.shape) - 0.5)


def log_interval(low, high):
    """Return the log probability of an interval under N(0, 1), exactly also far out."""
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    larger = log_ndtr(high)
    with np.errstate(divide="ignore"):
        return larger + np.log(-np.expm1(np.minimum(log_ndtr(low) - larger, -1e-300)))


class ProductMixture:
    """A GaussianMixture with diagonal covariances that is integrated over the cells of a grid."""

    def __init__(self, n_components, floor, grid):
        self.grid = grid
        self.model = GaussianMixture(
            n_components, covariance_type="diag", reg_covar=floor, random_state=0
        )

    def fit(self, X):
        """Fit to values as they are."""
        self.offset, self.scale = X.mean(0), np.where(np.ptp(X, axis=0) > 0, X.std(0), 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mixture that does not converge only loses
            self.model.fit((X - self.offset) / self.scale)
        return self

    def score_samples(self, X):
        """Return log sum_k w_k prod_j p_kj, where p_kj is P(cell) / step or a density."""
        total = np.empty((len(X), len(self.model.weights_)))
        below, above = self.grid.edges(X)
        is_gridded = self.grid.is_gridded
        for k, (mean, variance) in enumerate(
            zip(self.model.means_, self.model.covariances_, strict=True)
        ):
            loc, scale = self.offset + self.scale * mean, self.scale * np.sqrt(variance)
            log_density = -0.5 * np.square((X - loc) / scale) - np.log(scale * np.sqrt(2 * np.pi))
            with np.errstate(divide="ignore"):
                log_cell = log_interval((below - loc) / scale, (above - loc) / scale)
                log_cell = log_cell - np.log(self.grid.step)
            total[:, k] = np.where(is_gridded, log_cell, log_density).sum(1)
        return logsumexp(total + np.log(self.model.weights_), axis=1)


def tuned_mixture(X, groups, grid, small):
    """Return the mixture that is best by five-fold cross-validation, fitted to all rows."""
    parts = list(GroupKFold(5, shuffle=True, random_state=0).split(X, groups=groups))
    sizes = [k for k in COMPONENTS if 5 * k <= len(X)][: 2 if small else None]

    def score(params):
        scores = [ProductMixture(*params, grid).fit(X[a]).score_samples(X[b]) for a, b in parts]
        return np.concatenate(scores).mean()

    best = max(((k, floor) for k in sizes for floor in FLOORS), key=score)
    return ProductMixture(*best, grid).fit(X), best


def flow_scores(train, test, groups, grid, seed):
    """Return the log of the flow's mean density over draws of noise in each cell."""
    rng = np.random.default_rng(seed)
    noisy = grid.with_noise(train, rng)
    offset, scale = noisy.mean(0), noisy.std(0)
    log_density, _ = flow((noisy - offset) / scale, groups, seed)
    draws = [log_density((grid.with_noise(test, rng) - offset) / scale) for _ in range(N_NOISE)]
    return logsumexp(draws, axis=0) - np.log(N_NOISE) - np.log(scale).sum()


def evaluate(X, groups, k, small):
    """Return the results of all models on one split."""
    train, test, groups = split(X, groups, k)
    params = {"random_state": k} | ({"max_epochs": 3, "n_estimators": 1} if small else {})
    start = time.process_time()
    vae = GaussianVAE(**params).fit(train)
    found = {"seconds": time.process_time() - start}
    with warnings.catch_warnings(record=True):  # of rows that the table below counts
        warnings.simplefilter("always")
        ours = vae.score_samples(test)
    held = np.isfinite(ours)
    columns = list(vae.columns_.values())
    grid = Grid(columns)
    mixture, (n_components, floor) = tuned_mixture(train, groups, grid, small)
    continuous = GaussianVAE(**params, columns="continuous").fit(train)
    found |= {
        "rows": len(X),
        "columns": train.shape[1],
        "gridded": int(grid.is_gridded.sum()),
        "positive": sum(column.kind == "positive" for column in columns),
        "zero": int(np.sum(~held)),
        "ours": ours[held].mean(),
        "mixture": mixture.score_samples(test)[held].mean(),
        "n_components": n_components,
        "floor": floor,
        "as continuous": continuous.score_samples(test)[held].mean(),
        "flow": np.nan,
    }
    differences = ours[held] - mixture.score_samples(test)[held]
    found["error"] = differences.std(ddof=1) / np.sqrt(len(differences))
    if not MISSING and not small:
        found["flow"] = flow_scores(train, test, groups, grid, k)[held].mean()
    found["kinds"] = vae.columns_
    return found


def print_scores(results):
    header = [
        "set", "rows", "columns", "on a grid", "positive", "zero", "ours", "mixture", "flow",
        "ours − mixture", "ours − flow", "components", "floor", "as continuous", "ours, s",
    ]  # fmt: skip
    print(f"\n| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for name, runs in results.items():
        first = runs[0]
        mean = {key: np.mean([run[key] for run in runs]) for key in first if key != "kinds"}
        numbers = [f"{mean[key]:.2f}" for key in ("ours", "mixture", "flow")]
        cells = [
            name, first["rows"], first["columns"], first["gridded"], first["positive"],
            sum(run["zero"] for run in runs), *numbers,
            f"{mean['ours'] - mean['mixture']:.2f} ± {mean['error']:.2f}",
            f"{mean['ours'] - mean['flow']:.2f}",
            "/".join(str(run["n_components"]) for run in runs),
            "/".join(f"{run['floor']:g}" for run in runs),
            f"{mean['as continuous']:.2f}", f"{mean['seconds']:.1f}",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")
    for model in "mixture", "flow":
        gains = [np.mean([run["ours"] - run[model] for run in runs]) for runs in results.values()]
        known = [gain > 0 for gain in gains if not np.isnan(gain)]
        if known:
            print(f"\nOurs is ahead of the {model} on {sum(known)} of {len(known)} sets.")


# Grades of wine


class Ordinal:
    """Proportional odds: P(y <= c | x) = expit(a_c - x b), by maximum a posteriori."""

    def __init__(self, penalty=1.0):
        self.penalty = penalty

    def fit(self, X, y):
        """Fit to standardised columns."""
        self.scaler = StandardScaler().fit(X)
        self.classes_, label = np.unique(y, return_inverse=True)
        Z, n = self.scaler.transform(X), len(self.classes_) - 1
        share = np.cumsum(np.bincount(label))[:-1] / len(y)
        ends = np.log(share / (1 - share))
        start = np.concatenate([ends[:1], np.log(np.diff(ends)), np.zeros(X.shape[1])])

        def loss(params):
            p = self._probabilities(Z, params, n)[np.arange(len(y)), label]
            return -np.log(p + 1e-300).sum() + 0.5 * self.penalty * np.sum(params[n:] ** 2)

        self.n, self.params = n, minimize(loss, start, method="L-BFGS-B").x
        return self

    def predict_proba(self, X):
        """Return the probability of each grade."""
        return self._probabilities(self.scaler.transform(X), self.params, self.n)

    @staticmethod
    def _probabilities(Z, params, n):
        ends = np.cumsum(np.concatenate([params[:1], np.exp(params[1:n])]))
        below = expit(ends - (Z @ params[n:])[:, None])
        return np.diff(below, axis=1, prepend=0.0, append=1.0)


def grade_models(small):
    boosting = HistGradientBoostingClassifier(random_state=0)
    tuned = GridSearchCV(
        boosting,
        {"learning_rate": [0.02, 0.05, 0.1], "max_iter": [25, 50, 100]},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(3, shuffle=True, random_state=0),
    )
    models = {
        "HistGradientBoosting": boosting,
        "HistGradientBoosting, tuned": tuned,
        "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression()),
        "ordinal": Ordinal(),
    }
    if small:
        del models["HistGradientBoosting, tuned"]
    return models


def grade_scores(path, k, max_rows, small):
    """Return the mean log probability of the held-out grades, by each model, and of ours more."""
    data = np.load(path)
    table = np.column_stack([data["X"], data["y"]]).astype(float)
    table, _ = prepare(table, max_rows)
    groups = np.unique(table[:, :-1], axis=0, return_inverse=True)[1].ravel()
    train, test, groups = split(table, groups, k)
    grades = np.unique(table[:, -1])
    place = np.searchsorted(grades, test[:, -1])
    params = {"random_state": k} | ({"max_epochs": 3, "n_estimators": 1} if small else {})
    vae = GaussianVAE(**params, columns={table.shape[1] - 1: "integer"}).fit(train)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        scores = [vae.score_samples(np.c_[test[:, :-1], np.full(len(test), g)]) for g in grades]
        # All grades have the same probability if another cell of the row has a density of zero.
        scores = np.where(np.isfinite(scores), scores, 0.0).T
    ours = softmax(scores, axis=1)
    rows = np.arange(len(test))
    found = {"ours": (np.log(ours[rows, place]).mean(), np.mean(ours.argmax(1) == place))}
    for name, model in grade_models(small).items():
        extra = {"groups": groups} if isinstance(model, GridSearchCV) else {}
        model.fit(train[:, :-1], train[:, -1].astype(int), **extra)
        p = np.full((len(test), len(grades)), 1e-6)  # for a grade that training rows lack
        p[:, np.searchsorted(grades, model.classes_)] = model.predict_proba(test[:, :-1])
        p = np.maximum(p, 1e-12)
        found[name] = np.log(p[rows, place]).mean(), np.mean(p.argmax(1) == place)
    share = np.bincount(np.searchsorted(grades, train[:, -1]), minlength=len(grades)) + 0.5
    share = share / share.sum()
    found["frequencies"] = np.log(share[place]).mean(), np.mean(share.argmax() == place)
    print(f"{GRADED} {k}: of the grade {vae.columns_[table.shape[1] - 1]!r}", file=sys.stderr)
    return found


def print_grades(runs):
    print("\n| grade of reg_wine_red | log probability | accuracy |\n|---|---|---|")
    for name in runs[0]:
        log_p, accuracy = np.mean([run[name] for run in runs], axis=0)
        print(f"| {name} | {log_p:.3f} | {accuracy:.3f} |")


def main(args):
    torch.set_num_threads(1)
    max_rows, results = 120 if args.small else MAX_ROWS, {}
    for name in args.sets:
        X, groups = prepare(load(args.data, name), max_rows)
        results[name] = []
        for k in range(args.splits):
            run = evaluate(X, groups, k, args.small)
            results[name].append(run)
            print(name, k, run, file=sys.stderr, flush=True)
    print_scores(results)
    for model, reason in MISSING.items():
        print(f"\n{model}: {reason}.")
    if GRADED in args.sets:
        path = args.data / f"{GRADED}.npz"
        print_grades([grade_scores(path, k, max_rows, args.small) for k in range(args.splits)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args())
