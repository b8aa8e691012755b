"""Wall time of StackedGridSearchCV against GridSearchCV, and what they find.

    python benchmarks/search.py [--sets breast_cancer digits] [--epochs 50] [--jobs 1 2]

Latent size {2, 4, 8, 16, 32} × KL weight {0.25, 0.5, 1, 2, 4} × 5 folds of GaussianVAE with its
default settings on raw columns (digits dequantised), without the final refit. Ours runs in one
process, GridSearchCV in each of ``--jobs``. The last column is the largest difference between
its mean test scores and ours, in nats a row.
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


def row(label, search, seconds, ours):
    scores, reference = (s.cv_results_["mean_test_score"] for s in (search, ours))
    best = ", ".join(f"{name} {value:g}" for name, value in search.best_params_.items())
    difference = np.abs(scores - reference).max()
    cells = label, f"{seconds:.1f}", best, f"{scores.max():.3f}", f"{difference:.1e}"
    print(f"| {' | '.join(cells)} |", flush=True)


def main(sets, max_epochs, jobs, grid=GRID, device="auto"):
    settings = {} if max_epochs is None else {"max_epochs": max_epochs}
    vae = GaussianVAE(random_state=0, device=device, **settings)
    GaussianVAE(2, max_epochs=1).fit(load("breast_cancer"))  # warm up
    for name in sets:
        X = load(name)
        print(f"\n{name} {X.shape[0]} x {X.shape[1]}\n")
        print("| search | seconds | best parameters | best score | difference |")
        print("|---|---|---|---|---|")
        ours, seconds = run(StackedGridSearchCV, vae, X, grid, None)
        row("StackedGridSearchCV", ours, seconds, ours)
        for n_jobs in jobs:
            theirs, longer = run(GridSearchCV, vae, X, grid, n_jobs)
            row(f"GridSearchCV(n_jobs={n_jobs}): × {longer / seconds:.1f}", theirs, longer, ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=["breast_cancer", "digits"])
    parser.add_argument("--epochs", type=int, help="instead of the default rule")
    parser.add_argument("--jobs", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--latents", nargs="+", type=int, default=GRID["n_components"])
    args = parser.parse_args()
    main(args.sets, args.epochs, args.jobs, {**GRID, "n_components": args.latents}, args.device)
