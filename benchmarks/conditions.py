"""Check densities of rows with unknown cells, compare conditionals and accuracies with peers.

    python benchmarks/conditions.py DATA [--parts integral halves downstream]
        [--sets imp_banknote wine ...] [--seed 0] [--small]

DATA as for density.py. All models of this package have their default settings. ``integral`` and
``halves`` fit GaussianVAE to complete training rows and ask about held-out rows; there are at most
2000 rows before the split. Densities are in training units.

- integral: one cell of each of 200 held-out rows is NaN, column i mod d in row i. The table
  compares the score of such a row with the logarithm of a numerical integral over the cell. The
  integral has 100 points at equal distances, from a quarter of the training range below the range
  to a quarter above it, and 100 more at quantiles of what the first points tell. Their scores have
  1024 draws, and errors of their own: up to 0.05 nats of standard error, more in a few rows.
  "Grid" is the largest change of the logarithm if every second point is left out.
- halves: log p(one half of the columns | the other half), mean over both directions and all
  held-out rows. Ours is a difference of scores. They have 4096 draws, because too low a score of
  the given half is too high a conditional. GaussianMixture is tuned as in density.py, and its
  marginal density is exact. The difference has its standard error over rows, for this split and
  these fits.
- downstream: accuracy on test rows, mean over three splits. 20 % of all cells are hidden at random
  (MCAR), in training rows and in test rows. "Filled" means that a GaussianVAEImputer, fitted to
  the training rows, fills the cells. LogisticRegression sees standardised columns.

``--sets`` replaces the sets of each part; ``downstream`` knows breast_cancer, wine and digits,
which are left out by default because they take longer than 5 minutes.
``--small`` takes few rows, one set a part and one split: one only sees that everything works.
"""

import argparse
import time
import warnings
from pathlib import Path

import density_models
import density_sets
import numpy as np
import torch
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAEImputer

LABELLED = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
SETS = {
    "integral": ["imp_banknote", "ad_breastw", "imp_wine_white"],
    "halves": ["imp_banknote", "ad_breastw", "imp_wine_white", "ad_vowels", "den_oil_flow",
               "breast_cancer"],
    "downstream": ["breast_cancer", "wine"],  # digits take longer than 5 minutes
}  # fmt: skip
N_POINTS = 100
N_DRAWS = 4096
HIDDEN = 0.2


def rows(args, name):
    """Return training rows, their groups, and test rows."""
    raw = density_sets.load(args.data, name)
    X, groups, _ = density_sets.prepare(raw, 100 if args.small else 2000)
    train, test, groups = density_sets.split(X, groups, args.seed)
    return train, groups, test[: 5 if args.small else None]


def head(title, columns):
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)


def integral(args, names):
    columns = "set", "columns", "rows", "n_draws", "mean absolute difference", "below 0.1"
    columns += "largest", "mean difference", "ms a row", "grid"
    head("log p(known cells) less the logarithm of a numerical integral, nats", columns)
    for name in names:
        train, _, test = rows(args, name)
        model, test = GaussianVAE(random_state=args.seed).fit(train), test[:200]
        hidden = np.arange(len(test)) % test.shape[1]
        holes = test.copy()
        holes[np.arange(len(test)), hidden] = np.nan
        reference, change = log_integrals(model.set_params(n_draws=1024), train, test, hidden)
        for n_draws in GaussianVAE().n_draws, N_DRAWS:
            start = time.process_time()
            difference = model.set_params(n_draws=n_draws).score_samples(holes) - reference
            milliseconds = 1e3 * (time.process_time() - start) / len(test)
            size = np.abs(difference)
            print(
                f"| {name} | {test.shape[1]} | {len(test)} | {n_draws} | {size.mean():.3f} "
                f"| {(size < 0.1).mean():.1%} | {size.max():.3f} | {difference.mean():.3f} "
                f"| {milliseconds:.1f} | {change.max():.4f} |",
                flush=True,
            )


def log_integrals(model, train, X, hidden):
    """Return logarithms of the density integrated over a cell of each row, and their change.

    The change is between all points and every second one.
    """
    low, high = train.min(0)[hidden], train.max(0)[hidden]
    reach = (high - low) / 4
    points = np.linspace(low - reach, high + reach, N_POINTS, axis=1)  # (n_samples, N_POINTS)
    log_density = along(model, X, hidden, points)
    density = np.exp(log_density - log_density.max(1, keepdims=True))
    mass = cumulative_trapezoid(density, points, initial=0)
    level = (np.arange(N_POINTS) + 0.5) / N_POINTS
    finer = [np.interp(level * m[-1], m, p) for m, p in zip(mass, points, strict=True)]
    log_density = np.hstack([log_density, along(model, X, hidden, np.array(finer))])
    points = np.hstack([points, finer])
    order = points.argsort(1)
    points, log_density = (np.take_along_axis(a, order, 1) for a in (points, log_density))
    peak = log_density.max(1)
    density = np.exp(log_density - peak[:, None])
    found = np.log(trapezoid(density, points))
    halved = np.log(trapezoid(density[:, ::2], points[:, ::2]))
    return found + peak, np.abs(found - halved)


def along(model, X, hidden, points):
    """Return the log density of each row with points of shape (n_samples, K) in one cell."""
    filled = np.repeat(X[:, None], points.shape[1], 1)
    filled[np.arange(len(X)), :, hidden] = points
    return model.score_samples(filled.reshape(-1, X.shape[1])).reshape(points.shape)


def halves(args, names):
    columns = "set", "columns", "rows", "ours", "GaussianMixture", "difference"
    head("log p(one half of the columns | the other half), nats a row", columns)
    for name in names:
        train, groups, test = rows(args, name)
        model = GaussianVAE(random_state=args.seed).fit(train).set_params(n_draws=N_DRAWS)
        log_density, _ = density_models.gaussian_mixture(train, groups, args.seed)
        mixture, d = log_density.__self__, test.shape[1]
        first = np.arange(d) < d // 2
        of_parts = [model.score_samples(np.where(part, test, np.nan)) for part in (first, ~first)]
        ours = model.score_samples(test) - np.mean(of_parts, axis=0)
        of_parts = [marginal(mixture, test, part) for part in (first, ~first)]
        theirs = log_density(test) - np.mean(of_parts, axis=0)
        gain = ours - theirs
        print(
            f"| {name} | {d} | {len(test)} | {ours.mean():.3f} | {theirs.mean():.3f} "
            f"| {gain.mean():.3f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f} |",
            flush=True,
        )


def marginal(mixture, X, chosen):
    """Return the log density of the chosen columns under a GaussianMixture."""
    d, covariances = X.shape[1], mixture.covariances_
    if mixture.covariance_type == "diag":
        covariances = covariances[:, None] * np.eye(d)
    covariances = np.broadcast_to(covariances, (mixture.n_components, d, d))  # tied: the same
    log_densities = [
        np.atleast_1d(multivariate_normal(mean, covariance).logpdf(X[:, chosen]))
        for mean, covariance in zip(
            mixture.means_[:, chosen], covariances[:, chosen][:, :, chosen], strict=True
        )
    ]
    return logsumexp(log_densities, axis=0, b=mixture.weights_[:, None])


def downstream(args, names):
    columns = "ours", "ours, filled", "HistGradientBoosting"
    columns += "LogisticRegression, SimpleImputer", "LogisticRegression, filled"
    head(f"Accuracy with {HIDDEN:.0%} of the cells hidden", ["set", *columns, "processor s"])
    splitter = StratifiedShuffleSplit(1 if args.small else 3, test_size=0.25, random_state=0)
    for name in names:
        X, y = LABELLED[name](return_X_y=True)
        step = 3 if args.small else 1
        X, y = X[::step], y[::step]
        start = time.process_time()
        runs = [
            accuracies(X, y, train, test, args.seed + k)
            for k, (train, test) in enumerate(splitter.split(X, y))
        ]
        seconds = time.process_time() - start
        cells = " | ".join(f"{accuracy:.3f}" for accuracy in np.mean(runs, axis=0))
        print(f"| {name} | {cells} | {seconds:.0f} |", flush=True)


def accuracies(X, y, train, test, seed):
    """Return the test accuracy of each model."""
    known = np.random.default_rng(seed).random(X.shape) >= HIDDEN
    X = np.where(known, X, np.nan)
    imputer = GaussianVAEImputer(random_state=seed).fit(X[train])
    filled = np.empty_like(X)
    filled[train], filled[test] = imputer.transform(X[train]), imputer.transform(X[test])
    linear = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))
    models = [
        (GaussianVAEClassifier(random_state=seed), X),
        (GaussianVAEClassifier(random_state=seed), filled),
        (HistGradientBoostingClassifier(random_state=seed), X),
        (linear, X),
        (linear, filled),
    ]
    return [model.fit(Z[train], y[train]).score(Z[test], y[test]) for model, Z in models]


PARTS = {"integral": integral, "halves": halves, "downstream": downstream}


def main(args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for part in args.parts:
        names = args.sets or SETS[part]
        if part == "downstream":
            names = [name for name in names if name in LABELLED]
        PARTS[part](args, names[:1] if args.small else names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args())
