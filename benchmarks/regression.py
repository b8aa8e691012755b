"""Test log density and RMSE of GaussianVAERegressor on public regression sets.

    python benchmarks/regression.py DATA [--splits 5] [--sets concrete energy ...]

DATA is a folder of ``reg_<name>.npz`` files with arrays X, y and splits (one row of test
indices a split, padded with -1): the standard splits of Hernández-Lobato & Adams, 2015,
arXiv:1502.05336. All models have their default settings; ours sees raw columns. NLL is in
nats and RMSE in the units of y, means over splits with their standard errors. The columns "best of
four", TabPFN, TabResFlow and "MC dropout" hold published figures, means over all twenty splits
(protein: five).
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor
from skgvae.metrics import coverage_score, log_likelihood_score

# Published figures: the best NLL of Deep Ensembles, NGBoost, WGBoost and CARD; NLL of TabPFN and
# TabResFlow (https://github.com/ayhamo/Probabilistic_Point_Estimations); RMSE of MC dropout
# (Gal & Ghahramani 2016, arXiv:1506.02142, as re-run with a grid search in 2018).
PUBLISHED = {
    "concrete": (2.83, 2.21, 2.89, 4.83),
    "energy": (0.53, 0.15, 0.64, 0.54),
    "kin8nm": (-1.31, -1.27, -1.28, 0.079),
    "protein": (2.47, 1.73, 1.93, 4.27),
    "wine_red": (0.87, -2.72, -1.16, 0.62),
    "yacht": (0.16, -0.73, 0.56, 0.67),
}


def load(path, k):
    data = np.load(path)
    X, y = data["X"].astype(float), data["y"].astype(float).ravel()
    test = data["splits"][k]
    test = test[test >= 0]
    train = np.setdiff1d(np.arange(len(X)), test)
    return X[train], y[train], X[test], y[test]


def rmse(model, X, y):
    return np.sqrt(np.mean((model.predict(X) - y) ** 2))


def evaluate(path, k):
    warnings.simplefilter("ignore", category=DeprecationWarning)
    X, y, X_test, y_test = load(path, k)
    start = time.perf_counter()
    ours = GaussianVAERegressor(random_state=k).fit(X, y)
    seconds = time.perf_counter() - start
    trees = HistGradientBoostingRegressor(random_state=k).fit(X, y)
    ridge = make_pipeline(StandardScaler(), BayesianRidge()).fit(X, y)
    return [
        -log_likelihood_score(ours, X_test, y_test),
        rmse(ours, X_test, y_test),
        coverage_score(ours, X_test, y_test),
        seconds,
        rmse(trees, X_test, y_test),
        -log_likelihood_score(ridge, X_test, y_test),
    ]


def main(folder, sets, n_splits, n_jobs):
    print("| set | NLL | worst split | best of four | TabPFN | TabResFlow | RMSE | worst split "
          "| MC dropout | HistGradientBoosting | 90 % coverage | BayesianRidge NLL "
          "| fit, s |")  # fmt: skip
    print("|---" * 13 + "|")
    for name in sets:
        path = folder / f"reg_{name}.npz"
        rows = Parallel(n_jobs=n_jobs)(delayed(evaluate)(path, k) for k in range(n_splits))
        nll, error, coverage, seconds, trees, ridge = np.array(rows).T
        se = nll.std(ddof=1) / n_splits**0.5, error.std(ddof=1) / n_splits**0.5
        *published, best_rmse = PUBLISHED[name]
        print(
            f"| {name} | {nll.mean():.2f} ± {se[0]:.2f} | {nll.max():.2f} "
            f"| {' | '.join(f'{figure:.2f}' for figure in published)} "
            f"| {error.mean():.3g} ± {se[1]:.2g} | {error.max():.3g} | {best_rmse:.3g} "
            f"| {trees.mean():.3g} | {coverage.mean():.2f} | {ridge.mean():.2f} "
            f"| {np.median(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    main(args.data, args.sets, args.splits, args.jobs)
