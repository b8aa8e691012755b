"""Outliers by row: ROC-AUC and average precision beside other detectors and published figures.

    python benchmarks/anomaly.py DATA [--protocol unsupervised] [--sets ...] [--seeds 0 1 2 3 4]
                                 [--as-they-are] [--models ours kNN ...] [--params '{...}']

DATA holds ad_<set>.npz with the arrays X and y (1: an anomaly), rows in the order of ADBench. The
protocols are those of Livernoche et al., "On diffusion modeling for anomaly detection", 2024,
arXiv:2305.18593: "semi-supervised" trains on the first half of the normal rows and tests on the
others and all anomalies; "unsupervised" trains on a bootstrap of all rows and tests on all. Sets
of fewer than 1000 rows are first resampled with replacement to 1000, so that a row may be in both
parts, which flatters neighbours; ``--as-they-are`` leaves that out. Columns are standardised by
the training rows. The tables have percent, means over the seeds. PyOD's detectors are there where
it is installed. ``--params`` are parameters of the detector's model, for choosing its defaults.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from skgvae import GaussianVAE, GaussianVAEOutlierDetector

SETS = ["annthyroid", "breastw", "cardio", "mammography", "musk", "optdigits", "pima", "satellite",
        "thyroid", "vowels", "wbc", "yeast"]  # fmt: skip
PROTOCOLS = "semi-supervised", "unsupervised"
FEW_ROWS = 1000
N_NEIGHBORS = 5


class Distance:
    """Of the neighbours of a row, the mean."""

    def __init__(self, **_):
        pass

    def fit(self, X):
        """Keep the rows."""
        self.neighbors_ = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(X)
        return self

    def score_samples(self, X):
        """Return minus the distance."""
        return -self.neighbors_.kneighbors(X)[0].mean(1)


class Mixture:
    """A GaussianMixture with as many components, up to 20, as BIC chooses."""

    def __init__(self, random_state):
        self.random_state = random_state

    def fit(self, X):
        """Fit the candidates."""
        params = {"reg_covar": 1e-3, "random_state": self.random_state}
        fitted = [GaussianMixture(n, **params).fit(X) for n in (1, 2, 3, 5, 8, 12, 20)]
        self.best_ = min(fitted, key=lambda model: model.bic(X))
        return self

    def score_samples(self, X):
        """Return the log density."""
        return self.best_.score_samples(X)


class OfPyOD:
    """A detector of PyOD, whose scores are high for anomalies."""

    def __init__(self, model):
        self.model = model

    def fit(self, X):
        """Fit it."""
        self.model.fit(X)
        return self

    def score_samples(self, X):
        """Return minus its score."""
        return -self.model.decision_function(X)


def ours(random_state, params=None):
    """Return the detector with parameters of its model, if any."""
    model = GaussianVAE(**params) if params else None
    return GaussianVAEOutlierDetector(model, random_state=random_state)


MODELS = {
    "ours": ours,
    "IsolationForest": lambda random_state: IsolationForest(random_state=random_state),
    "kNN": Distance,
    "LOF": lambda random_state: LocalOutlierFactor(novelty=True),
    "OneClassSVM": lambda random_state: OneClassSVM(),
    "GaussianMixture": Mixture,
}
try:
    from pyod.models.ecod import ECOD
    from pyod.models.vae import VAE

    MODELS["ECOD"] = lambda random_state: OfPyOD(ECOD())
    MODELS["VAE of PyOD"] = lambda random_state: OfPyOD(VAE(random_state=random_state, verbose=0))
except ImportError:
    pass


def load(path, protocol, seed, as_they_are=False):
    """Return training rows, test rows, and which of those are anomalies."""
    with np.load(path) as data:
        X, y = data["X"].astype(float), data["y"].astype(int)
    rng = np.random.default_rng(seed)
    if len(X) < FEW_ROWS and not as_they_are:
        chosen = rng.integers(len(X), size=FEW_ROWS)
        X, y = X[chosen], y[chosen]
    if protocol == "unsupervised":
        train, test = rng.integers(len(X), size=len(X)), np.arange(len(X))
    else:
        normal = np.flatnonzero(y == 0)
        train = normal[: len(normal) // 2]
        test = np.setdiff1d(np.arange(len(X)), train)
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), scaler.transform(X[test]), y[test]


def evaluate(path, protocol, name, args):
    """Return ROC-AUC and average precision in percent, and seconds of processor time."""
    found = []
    for seed in args.seeds:
        X, X_test, y = load(path, protocol, seed, args.as_they_are)
        own = {"params": args.params} if name == "ours" else {}
        start = time.process_time()
        model = MODELS[name](random_state=seed, **own)
        scores = -model.fit(X).score_samples(X_test)
        seconds = time.process_time() - start
        found.append((100 * roc_auc_score(y, scores), 100 * average_precision_score(y, scores),
                      seconds))  # fmt: skip
    return np.mean(found, 0)


def main(args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for protocol in args.protocol:
        print(f"\n{protocol}\n\n| set | {' | '.join(args.models)} |")
        print("|---" * (1 + len(args.models)) + "|")
        whole = []
        for name in args.sets:
            path = args.data / f"ad_{name}.npz"
            rows = np.array([evaluate(path, protocol, model, args) for model in args.models])
            cells = [f"{auc:.1f} / {precision:.1f} ({s:.0f} s)" for auc, precision, s in rows]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            whole.append(rows)
        cells = [f"{auc:.1f} / {precision:.1f} ({s:.0f} s)" for auc, precision, s in
                 np.mean(whole, 0)]  # fmt: skip
        print(f"| mean of {len(whole)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--protocol", nargs="*", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--as-they-are", action="store_true")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--params", type=json.loads)
    main(parser.parse_args())
