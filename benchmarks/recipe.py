"""What a change of the defaults does to GaussianVAERegressor, on splits kept for choosing.

    python benchmarks/recipe.py DATA '{"lr": 0.005}' '{"tail": 1}' ... [--sets energy ...]

DATA as for ``regression.py``, whose table is made with splits 0 to 4; here are splits 5 to 9. Each
argument is a set of parameters; the first row of a set are the defaults. Test NLL (nats, units of
y), its worst split, and RMSE, with the difference from the defaults, paired by split, and its
standard error. RECIPE.md holds what was found.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from regression import load, rmse

from skgvae import GaussianVAERegressor
from skgvae.metrics import log_likelihood_score

SPLITS = range(5, 10)


def evaluate(path, k, params):
    X, y, X_test, y_test = load(path, k)
    model = GaussianVAERegressor(**{"random_state": k, **params}).fit(X, y)
    return -log_likelihood_score(model, X_test, y_test), rmse(model, X_test, y_test)


def main(folder, sets, changes, n_jobs):
    print("| set | change | NLL | less that of the defaults | worst split | RMSE | difference |")
    print("|---" * 7 + "|")
    for name in sets:
        path = folder / f"reg_{name}.npz"
        default = None
        for params in ({}, *changes):
            runs = Parallel(n_jobs=n_jobs)(delayed(evaluate)(path, k, params) for k in SPLITS)
            runs = np.array(runs)
            default = runs if default is None else default
            nll, error = runs.mean(0)
            gain = runs - default
            (gain_nll, gain_error), (se_nll, se_error) = gain.mean(0), gain.std(0, ddof=1) / 5**0.5
            print(
                f"| {name} | {json.dumps(params)} | {nll:.3f} | {gain_nll:.3f} ± {se_nll:.3f} "
                f"| {runs[:, 0].max():.2f} | {error:.3g} | {gain_error:.2g} ± {se_error:.1g} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("changes", type=json.loads, nargs="*")
    parser.add_argument("--sets", nargs="*", default=["energy", "concrete", "wine_red", "yacht"])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    main(args.data, args.sets, args.changes, args.jobs)
