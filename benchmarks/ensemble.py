"""What ``n_estimators`` costs and gains on public regression sets.

    python benchmarks/ensemble.py DATA [--splits 5] [--sets concrete energy ...] [--sizes 2 5 10]

DATA as for ``regression.py``. For each number of members: test NLL (nats, units of y) and RMSE,
averages over splits, and the CPU seconds of a fit as a multiple of those of one model, the median
over splits of ratios measured in turn in one process. The difference is that to one model,
paired by split, with its standard error.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from regression import PUBLISHED, load, rmse

from skgvae import GaussianVAERegressor
from skgvae.metrics import log_likelihood_score


def evaluate(path, k, size):
    X, y, X_test, y_test = load(path, k)
    start = time.process_time()
    model = GaussianVAERegressor(n_estimators=size, random_state=k).fit(X, y)
    seconds = time.process_time() - start
    return -log_likelihood_score(model, X_test, y_test), rmse(model, X_test, y_test), seconds


def main(folder, sets, n_splits, sizes):
    print("| set | members | NLL | less one model's | RMSE | fit time / one model's |")
    print("|---" * 6 + "|")
    for name in sets:
        path = folder / f"reg_{name}.npz"
        results = np.array([[evaluate(path, k, s) for s in (1, *sizes)] for k in range(n_splits)])
        nll, error, seconds = np.moveaxis(results, -1, 0)  # (split, size)
        gain = nll - nll[:, :1]
        for j, size in enumerate((1, *sizes)):
            se = gain[:, j].std(ddof=1) / n_splits**0.5
            ratio = np.median(seconds[:, j] / seconds[:, 0])
            print(
                f"| {name} | {size} | {nll[:, j].mean():.3f} | {gain[:, j].mean():.3f} ± {se:.3f} "
                f"| {error[:, j].mean():.3g} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 5, 10])
    args = parser.parse_args()
    main(args.data, args.sets, args.splits, args.sizes)
