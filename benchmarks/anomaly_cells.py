"""Outliers by cell: whether the cell that was made wrong is the one that is named.

    python benchmarks/anomaly_cells.py DATA [--part gaussian real training] [--sets ...]

DATA as for anomaly.py. "gaussian": rows are simulated with the correlations of a set; a cell of
each test row is shifted by 5 conditional standard deviations; in how many rows is it the most
surprising one, by the detector and by the true conditional distributions? "real": a cell of each
held-out row is shifted by 5 standard deviations of the residuals of HistGradientBoosting; in how
many rows is it among the first three? "training": the same shift in one cell of 1 % of the
training rows; what share of the cells with the largest surprise are wrong, where half of the wrong
ones are found? ``--params`` are parameters of the detector's model.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import cross_val_predict

from skgvae import GaussianVAE, GaussianVAEOutlierDetector

SETS = {
    "gaussian": ["wine", "breast_cancer", "ad_vowels", "ad_pima", "ad_satellite"],
    "real": ["wine", "ad_vowels", "ad_satellite"],
    "training": ["wine", "ad_vowels", "ad_satellite"],
}
N_TRAIN, N_TEST, SHIFT = 1500, 150, 5


def load(folder, name, seed):
    """Return normal rows of a set in random order, standardised, without constant columns."""
    if name in ("wine", "breast_cancer"):
        X = (load_wine if name == "wine" else load_breast_cancer)().data
    else:
        with np.load(folder / f"{name}.npz") as data:
            X = data["X"][data["y"] == 0].astype(float)
    X = X[np.random.default_rng(seed).permutation(len(X))][: N_TRAIN + N_TEST]
    X = X[:, X.std(0) > 0]
    return (X - X.mean(0)) / X.std(0)


def detector(X, args, seed):
    """Return the detector fitted to rows."""
    model = GaussianVAE(**args.params) if args.params else None
    return GaussianVAEOutlierDetector(model, random_state=seed).fit(X)


def shifted(X, scale, rng):
    """Return rows with one wrong cell each, and the place of that."""
    place, X = rng.integers(X.shape[1], size=len(X)), X.copy()
    rows = np.arange(len(X))
    X[rows, place] += SHIFT * scale[place] * rng.choice([-1, 1], size=len(X))
    return X, place


def rank(surprise, place):
    """Return how many cells of each row are more surprising than the wrong one."""
    own = surprise[np.arange(len(place)), place]
    return (surprise > own[:, None]).sum(1)


def gaussian(X, args, seed):
    """Return shares of rows in which the wrong cell is first, by detector and by truth."""
    rng, covariance = np.random.default_rng(seed), np.cov(X.T) + 1e-6 * np.eye(X.shape[1])
    rows = rng.multivariate_normal(np.zeros(len(covariance)), covariance, size=N_TRAIN + N_TEST)
    precision = np.linalg.inv(covariance)
    scale = 1 / np.sqrt(np.diag(precision))
    X_test, place = shifted(rows[N_TRAIN:], scale, rng)
    surprise = detector(rows[:N_TRAIN], args, seed).explain(X_test).surprise
    residual = np.abs(X_test @ precision) * scale  # in conditional standard deviations
    return (rank(surprise, place) == 0).mean(), (rank(residual, place) == 0).mean()


def residual_scale(X):
    """Return the standard deviation of what the other columns leave of each."""
    found = []
    for j in range(X.shape[1]):
        others = np.delete(X, j, 1)
        guess = cross_val_predict(
            HistGradientBoostingRegressor(max_iter=50), others, X[:, j], cv=3
        )
        found.append(np.std(X[:, j] - guess))
    return np.array(found)


def real(X, args, seed):
    """Return the share of held-out rows in which the wrong cell is among the first three."""
    n_test = min(N_TEST, len(X) // 4)
    X_test, place = shifted(X[:n_test], residual_scale(X), np.random.default_rng(seed))
    return ((rank(detector(X[n_test:], args, seed).explain(X_test).surprise, place) < 3).mean(),)


def training(X, args, seed):
    """Return the precision at which half of the wrong cells of the training rows are found."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(X), size=max(2, len(X) // 100), replace=False)
    X, is_wrong = X.copy(), np.zeros(X.shape, bool)
    X[wrong], place = shifted(X[wrong], residual_scale(X), rng)
    is_wrong[wrong, place] = True
    surprise = detector(X, args, seed).explain(X).surprise
    precision, recall, _ = precision_recall_curve(is_wrong.ravel(), surprise.ravel())
    return (precision[recall >= 0.5].max(),)


PARTS = {
    "gaussian": (gaussian, "wrong cell first, %", "by the truth, %"),
    "real": (real, "wrong cell among three, %"),
    "training": (training, "precision at recall 1/2, %"),
}


def main(args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for part in args.part:
        measure, *titles = PARTS[part]
        print(f"\n{part}\n\n| set | {' | '.join(titles)} | processor, s |")
        print("|---" * (2 + len(titles)) + "|")
        for name in args.sets or SETS[part]:
            start = time.process_time()
            found = [measure(load(args.data, name, seed), args, seed) for seed in args.seeds]
            cells = [f"{100 * share:.0f}" for share in np.mean(found, 0)]
            seconds = (time.process_time() - start) / len(args.seeds)
            print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--params", type=json.loads)
    main(parser.parse_args())
