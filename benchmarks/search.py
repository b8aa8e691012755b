"""Wall time of StackedGridSearchCV against GridSearchCV, and what they find.

    python benchmarks/search.py [--sets breast_cancer digits] [--epochs 50] [--jobs 1 2]

Latent size {2, 4, 8, 16, 32} × KL weight {0.25, 0.5, 1, 2, 4} × 5 folds of GaussianVAE with its
default settings on raw columns (digits dequantised), without the final refit. Both searches run
with each of ``--jobs``; the ratios are those to our search with as many processes and with the
most. The last column is the largest difference between mean test scores and those of our first
search, in nats a row.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import GridSearchCV

from skgvae import GaussianVAE
from skgvae.model_selection import StackedGridSearchCV

GRID = {"n_components": [2, 4, 8, 16, 32], "kl_weight": [0.25, 0.5, 1.0, 2.0, 4.0]}


def load(name):
    if name == "breast_cancer":
        return load_breast_cancer().data
    X = load_digits().data
    return X + np.random.default_rng(0).uniform(size=X.shape)


def run(search, vae, X, grid, n_jobs):
    start = time.perf_counter()
    search = search(vae, grid, cv=5, n_jobs=n_jobs, refit=False).fit(X)
    return search, time.perf_counter() - start


def row(search, vae, X, grid, n_jobs, ours):
    """Run a search and print its row; ``ours`` has seconds and scores of our searches."""
    found, seconds = run(search, vae, X, grid, n_jobs)
    scores = found.cv_results_["mean_test_score"]
    if search is StackedGridSearchCV:
        ours.setdefault("scores", scores)
        ours[n_jobs] = seconds
    fastest = ours.get(max(ours["jobs"]), seconds)
    best = ", ".join(f"{name} {value:g}" for name, value in found.best_params_.items())
    difference = np.abs(scores - ours["scores"]).max()
    label = f"{search.__name__}(n_jobs={n_jobs})"
    ratios = f"{seconds / ours[n_jobs]:.1f}", f"{seconds / fastest:.1f}"
    cells = label, f"{seconds:.1f}", *ratios, best, f"{scores.max():.3f}", f"{difference:.1e}"
    print(f"| {' | '.join(cells)} |", flush=True)


def main(sets, jobs, grid, **settings):
    settings = {name: value for name, value in settings.items() if value is not None}
    vae = GaussianVAE(n_estimators=1, random_state=0, **settings)
    GaussianVAE(2, max_epochs=1).fit(load("breast_cancer"))  # warm up
    for name in sets:
        X, ours = load(name), {"jobs": jobs}
        print(f"\n{name} {X.shape[0]} x {X.shape[1]}\n")
        print(f"| search | seconds | / ours, as many processes | / ours, {max(jobs)} processes "
              "| best parameters | best score | difference |")  # fmt: skip
        print("|---" * 7 + "|")
        for search in (StackedGridSearchCV, GridSearchCV):
            for n_jobs in sorted(jobs, reverse=True):
                row(search, vae, X, grid, n_jobs, ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=["breast_cancer", "digits"])
    parser.add_argument("--epochs", type=int, help="instead of the default rule")
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--latents", nargs="+", type=int, default=GRID["n_components"])
    parser.add_argument("--validation-fraction", type=float, help="instead of the default rule")
    args = parser.parse_args()
    settings = {
        "max_epochs": args.epochs,
        "device": args.device,
        "validation_fraction": args.validation_fraction,
    }
    main(args.sets, args.jobs, {**GRID, "n_components": args.latents}, **settings)
