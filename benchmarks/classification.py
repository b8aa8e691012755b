"""Accuracy and log loss of GaussianVAEClassifier, with all labels, with few, with a second view.

    python benchmarks/classification.py DATA [--part all few views] [--shares 0.01 0.05 0.1]
                                             [--estimators 1]

DATA is a folder with ``pair_<name>.npz`` files (views v1, v2, ... of the same objects, classes
y); the other sets come with scikit-learn. Stratified random splits, a quarter of the rows for
testing. All models have their default settings; all but ours, which scales by itself, see
standardised columns. Where few labels are known, it is the given share of each class, one at
least, the same for all models.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skgvae import GaussianVAEClassifier

BUNDLED = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}
SETS = (*BUNDLED, "pair_mfeat", "pair_wiki")
# v1, the view that is known when predicting, and v2, known in training only.
VIEWS = (("pair_mfeat", "v2", "v3"), ("pair_mfeat", "v6", "v1"),
         ("pair_wiki", "v1", "v2"), ("pair_wiki", "v2", "v1"))  # fmt: skip


def load(folder, name):
    if name in BUNDLED:
        return BUNDLED[name](return_X_y=True)
    data = np.load(folder / f"{name}.npz")
    return data["v1"].astype(float), data["y"]


def splits(y, n_splits):
    return list(StratifiedShuffleSplit(n_splits, test_size=0.25, random_state=0).split(y, y))


def hide(y, share, seed):
    """Return y with -1 for all but a share of each class."""
    rng, known = np.random.default_rng(seed), []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        known.append(rng.choice(rows, max(1, round(share * len(rows))), replace=False))
    hidden = np.full(len(y), -1)
    hidden[np.concatenate(known)] = y[np.concatenate(known)]
    return hidden


def scores(model, X, y):
    probabilities = model.predict_proba(X)
    probabilities = np.where(np.isfinite(probabilities), probabilities, 1 / probabilities.shape[1])
    probabilities = np.clip(probabilities, 1e-15, None)
    probabilities /= probabilities.sum(1, keepdims=True)
    return model.score(X, y), log_loss(y, probabilities)


def all_labels(ours, folder, name, k, n_splits):
    X, y = load(folder, name)
    train, test = splits(y, n_splits)[k]
    models = [
        ours(random_state=k),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), MLPClassifier(random_state=k)),
        HistGradientBoostingClassifier(random_state=k),
    ]
    return [scores(model.fit(X[train], y[train]), X[test], y[test]) for model in models]


def few_labels(ours, folder, name, share, k, n_splits):
    X, y = load(folder, name)
    y = np.unique(y, return_inverse=True)[1]
    train, test = splits(y, n_splits)[k]
    X_test, y_test, X, y = X[test], y[test], X[train], hide(y[train], share, k)
    known = y >= 0
    ridge = LogisticRegression()
    fits = [
        ours(unlabeled=-1, random_state=k).fit(X, y),
        ours(random_state=k).fit(X[known], y[known]),
        make_pipeline(StandardScaler(), SelfTrainingClassifier(ridge)).fit(X, y),
        make_pipeline(StandardScaler(), LabelSpreading(kernel="knn")).fit(X, y),
        make_pipeline(StandardScaler(), ridge).fit(X[known], y[known]),
    ]
    return [scores(model, X_test, y_test) for model in fits]


def two_views(ours, folder, name, v1, v2, k, n_splits):
    data = np.load(folder / f"{name}.npz")
    X, V, y = data[v1].astype(float), data[v2].astype(float), data["y"]
    train, test = splits(y, n_splits)[k]
    model = ours(random_state=k)
    results = []
    for target in (V, X):
        fitted = model.fit(X[train], y[train], X_target=target[train])
        results.append(scores(fitted, X[test], y[test]))
    return results


def quietly(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def table(title, columns, jobs, function, folder, n_splits, n_jobs):
    """Print accuracy / log loss of each model, averages over splits."""
    print(f"\n{title}\n")
    print("| set | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for job in jobs:
        runs = (delayed(quietly)(function, folder, *job, k, n_splits) for k in range(n_splits))
        means = np.mean(Parallel(n_jobs=n_jobs)(runs), 0)
        cells = " | ".join(f"{accuracy:.3f} / {loss:.3f}" for accuracy, loss in means)
        print(f"| {' '.join(map(str, job))} | {cells} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--part", nargs="*", default=["all", "few", "views"])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.05, 0.1])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--estimators", type=int, help="models of ours, where not the default")
    args = parser.parse_args()
    params = {"n_estimators": args.estimators} if args.estimators else {}
    ours = partial(GaussianVAEClassifier, **params)
    common = args.data, args.splits, args.jobs
    if "all" in args.part:
        table("All labels: accuracy / log loss",
              ["ours", "LogisticRegression", "MLPClassifier", "HistGradientBoosting"],
              [(name,) for name in args.sets], partial(all_labels, ours), *common)  # fmt: skip
    if "few" in args.part:
        table("Few labels: accuracy / log loss",
              ["ours", "ours, labelled rows only", "SelfTraining", "LabelSpreading",
               "LogisticRegression"],
              [(name, share) for share in args.shares for name in args.sets],
              partial(few_labels, ours), *common)  # fmt: skip
    if "views" in args.part:
        table("A second view in training: accuracy / log loss",
              ["v2 is the second view", "v2 is v1"],
              VIEWS, partial(two_views, ours), *common)  # fmt: skip
