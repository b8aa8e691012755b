"""Joint test log density of GaussianVAERegressor where there are several targets.

    python benchmarks/multi_output.py DATA [--splits 3]

DATA is a folder of ``mo_<name>.npz`` (X, y, splits) and ``pair_mfeat.npz`` (views v1, v3) files;
``splits`` holds test indices, padded with -1. Beside ours stands a ridge regression, its penalty
chosen by cross-validation, whose residuals are a Gaussian with full covariance, estimated with
the shrinkage of Ledoit & Wolf. Nats a row in the units of y, rows with missing values left out.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor


def load(path):
    data = np.load(path)
    X, Y = (data["v1"], data["v3"]) if "v1" in data else (data["X"], data["y"])
    return X.astype(float), Y.astype(float), data["splits"]


def ridge_log_density(X, Y, X_test, Y_test):
    scale = Y.std(0)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    residuals = (Y - cross_val_predict(ridge, X, Y, cv=5)) / scale
    covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    errors = (Y_test - ridge.fit(X, Y).predict(X_test)) / scale
    zeros = np.zeros(Y.shape[1])
    return multivariate_normal(zeros, covariance).logpdf(errors).mean() - np.log(scale).sum()


def main(folder, n_splits):
    print("| set | rows | targets | ours | ridge, full covariance | difference |")
    print("|---|---|---|---|---|---|")
    for path in [*sorted(folder.glob("mo_*.npz")), folder / "pair_mfeat.npz"]:
        X, Y, splits = load(path)
        complete = np.isfinite(X).all(1) & np.isfinite(Y).all(1)
        ours, ridge = [], []
        for k in range(n_splits):
            test = np.isin(np.arange(len(X)), splits[k][splits[k] >= 0])
            a, b = complete & ~test, complete & test
            model = GaussianVAERegressor(random_state=k).fit(X[a], Y[a])
            ours.append(model.score_samples(X[b], Y[b]).mean())
            ridge.append(ridge_log_density(X[a], Y[a], X[b], Y[b]))
        difference = np.subtract(ours, ridge)
        se = difference.std(ddof=1) / n_splits**0.5
        print(
            f"| {path.stem} | {complete.sum()} | {Y.shape[1]} | {np.mean(ours):.2f} "
            f"| {np.mean(ridge):.2f} | {difference.mean():.2f} ± {se:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=3)
    args = parser.parse_args()
    main(args.data, args.splits)
