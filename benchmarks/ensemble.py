"""What ``n_estimators`` costs and gains on public sets.

    python benchmarks/ensemble.py DATA [--splits 5] [--sizes 2 5 10] [--sets concrete energy ...]
                                       [--densities digits imp_banknote ...]

DATA as for ``regression.py`` and ``density.py``: of ``--sets`` it is the regressor, of
``--densities`` GaussianVAE on at most 2000 rows. For each number of members: test NLL (nats; of
targets in their units, of densities in training units) and RMSE, averages over splits, and the CPU
seconds of a fit as a multiple of those of one model, the median over splits of ratios measured in
turn in one process. The difference is that to one model, paired by split, with its standard error.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import density_sets
import numpy as np
from regression import PUBLISHED, load

from skgvae import GaussianVAE, GaussianVAERegressor
from skgvae.metrics import log_likelihood_score

MAX_ROWS = 2000


def evaluate(folder, name, k, size):
    X, y, X_test, y_test = load(folder / f"reg_{name}.npz", k)
    start = time.process_time()
    model = GaussianVAERegressor(n_estimators=size, random_state=k).fit(X, y)
    seconds = time.process_time() - start
    rmse = np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2))
    return -log_likelihood_score(model, X_test, y_test), rmse, seconds


def evaluate_density(folder, name, k, size):
    X, groups, _ = density_sets.prepare(density_sets.load(folder, name), MAX_ROWS)
    train, test, _ = density_sets.split(X, groups, k)
    start = time.process_time()
    model = GaussianVAE(n_estimators=size, random_state=k).fit(train)
    return -model.score(test), np.nan, time.process_time() - start


def compare(name, evaluate, n_splits, sizes):
    results = np.array([[evaluate(name, k, s) for s in (1, *sizes)] for k in range(n_splits)])
    nll, error, seconds = np.moveaxis(results, -1, 0)  # (split, size)
    gain = nll - nll[:, :1]
    for j, size in enumerate((1, *sizes)):
        se = gain[:, j].std(ddof=1) / n_splits**0.5
        ratio = np.median(seconds[:, j] / seconds[:, 0])
        of_mean = "–" if np.isnan(error[0, j]) else f"{error[:, j].mean():.3g}"
        print(
            f"| {name} | {size} | {nll[:, j].mean():.3f} | {gain[:, j].mean():.3f} ± {se:.3f} "
            f"| {of_mean} | {ratio:.2f} |",
            flush=True,
        )


def main(folder, sets, densities, n_splits, sizes):
    print("| set | members | NLL | less one model's | RMSE | fit time / one model's |")
    print("|---" * 6 + "|")
    for names, function in (sets, evaluate), (densities, evaluate_density):
        for name in names:
            compare(name, partial(function, folder), n_splits, sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--densities", nargs="*", default=[])
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 5, 10])
    args = parser.parse_args()
    main(args.data, args.sets, args.densities, args.splits, args.sizes)
