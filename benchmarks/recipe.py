"""What a change of the defaults does: nats a row and the processor time that they cost.

    python benchmarks/recipe.py DATA '{"lr": 0.005}' '{"habits": {"n_epochs": 40}}' ...
                                [--estimator GaussianVAE] [--sets ...] [--splits 5 6 7]

DATA as for density.py, regression.py and classification.py. Each argument is a set of parameters
of the estimator; "habits" changes what is not a parameter, see skgvae/_recipe.py. The first row of
a set are the defaults. "NLL" is the negative log-likelihood of the test rows as in cost.py, with
the difference from the defaults, paired by split, and its standard error; "processor" the seconds
of a fit on one thread. Splits 5 to 9 are for choosing: the tables of README.md are made with
others. The classifier has the one split of cost.py, with several seeds. RECIPE.md holds what was
found.
"""

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cost
import density_sets
import numpy as np
import regression
import torch

import skgvae

SETS = {
    "GaussianVAE": ["2000x20", "digits", "wine", "breast_cancer", "ad_cardio", "ad_breastw"],
    "GaussianVAERegressor": ["energy", "concrete", "wine_red", "yacht"],
    "GaussianVAEClassifier": ["iris", "wine", "breast_cancer", "digits"],
}


def rows(kind, folder, name, k):
    """Return training and test rows of a split."""
    if kind == "GaussianVAE" and not cost.simulate(name):
        X, groups, _ = density_sets.prepare(density_sets.load(folder, name), 2000)
        X, X_test, _ = density_sets.split(X, groups, k)
        return {"X": X, "X_test": X_test}
    if kind == "GaussianVAERegressor":
        found = regression.load(folder / f"reg_{name}.npz", k)
        return dict(zip(("X", "y", "X_test", "y_test"), found, strict=True))
    return cost.load(kind, name, folder, 2000)


def evaluate(kind, table, seed, params):
    """Return the negative log-likelihood of the test rows and processor seconds."""
    params = dict(params)
    habits = params.pop("habits", {})
    model = getattr(skgvae, kind)(random_state=seed, **params)
    model._habits = replace(model._habits, **habits)
    before = time.process_time()
    model.fit(table["X"], table.get("y"))
    seconds = time.process_time() - before
    if kind == "GaussianVAEClassifier":
        chosen = np.searchsorted(model.classes_, table["y_test"])
        log_prob = model.predict_log_proba(table["X_test"])[np.arange(len(chosen)), chosen]
    else:
        log_prob = model.score_samples(*(table[n] for n in ("X_test", "y_test") if n in table))
    return -log_prob.mean(), seconds


def main(args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| set | change | NLL | less that of the defaults | worst split | processor, s |")
    print("|---" * 6 + "|")
    for name in args.sets or SETS[args.estimator]:
        default = None
        for params in ({}, *args.changes):
            runs = np.array([evaluate(args.estimator, rows(args.estimator, args.data, name, k), k,
                                      params) for k in args.splits])  # fmt: skip
            default = runs if default is None else default
            gain = (runs - default)[:, 0]
            error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.nan
            print(
                f"| {name} | {json.dumps(params)} | {runs[:, 0].mean():.3f} | {gain.mean():.3f} "
                f"± {error:.3f} | {runs[:, 0].max():.2f} | {runs[:, 1].mean():.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("changes", type=json.loads, nargs="*")
    parser.add_argument("--estimator", choices=list(SETS), default="GaussianVAE")
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--splits", type=int, nargs="*", default=[5, 6, 7])
    main(parser.parse_args())
