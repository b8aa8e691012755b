"""Errors of GaussianVAE.impute and of other imputers on public sets.

    python benchmarks/imputation.py DATA [--sets iris wine ...] [--experiments 0 1 2]
        [--models ours KNNImputer IterativeImputer] [--seed 0] [--no-coverage] [--small]

DATA is a folder of ``imputation_<set>.npz`` files with the masks of the published runs. A model
sees the training rows [X, y]. Each cell of X is hidden with probability 0.2, y is never hidden.
Rows without a known cell of X are dropped. All models have their default settings, KNNImputer
on standardised columns. Ours is told which columns are categories, y among them. The columns from
"kNN(1)" on hold published figures, which are means over all three experiments.

The error of a hidden cell is absolute, as a share of the column's range in the complete training
rows. In a categorical column it is 0 or 1. The measures are means over ``--experiments``:

- AvgMAE: mean error of one answer. Ours is the median. A published method that draws has the
  mean error of five imputations.
- MinMAE: mean error of the best of five imputations, which is chosen for each row. Ours and
  IterativeImputer draw five times. A method that does not draw has one answer.

Imputations of all models that run here are clipped to the range of the column's known cells. In
categorical columns they are rounded to the nearest level.

Seconds are for one fit, its medians and five draws. Coverage is the share of hidden numeric cells
between the 5 % and 95 % quantiles of 100 draws of ours, in experiment 0, without clipping; nan if
there are none. ``--small`` takes 60 rows of experiment 0: one only sees that everything works.
"""

import argparse
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

# Jolicoeur-Martineau, Fatras & Kachman 2024 (arXiv:2309.09968; ForestDiffusion is the variant with
# RePaint) and McCarter 2024 (UnmaskingTrees), whose repository has the figures of both:
# https://github.com/calvinmccarter/unmasking-trees, Results/all_tabular_imputation_results.txt
METHODS = "kNN(1)", "miceforest", "MissForest", "ForestDiffusion", "UnmaskingTrees"
PUBLISHED = {
    "AvgMAE": {
        "iris": (0.1048, 0.0823, 0.0716, 0.0949, 0.0929),
        "wine": (0.1392, 0.1122, 0.1064, 0.1272, 0.1439),
        "yacht_hydrodynamics": (0.1920, 0.0803, 0.0685, 0.1860, 0.0802),
        "concrete_compression": (0.0940, 0.0729, 0.0607, 0.1177, 0.0570),
        "airfoil_self_noise": (0.2139, 0.1040, 0.0840, 0.1952, 0.0715),
        "glass": (0.0839, 0.0790, 0.0681, 0.0846, 0.0801),
        "breast_cancer_diagnostic": (0.0631, 0.0398, 0.0364, 0.0585, 0.0582),
        "parkinsons": (0.0711, 0.0568, 0.0514, 0.0775, 0.0763),
        "wine_quality_red": (0.0771, 0.0765, 0.0624, 0.0899, 0.0722),
        "connectionist_bench_sonar": (0.1249, 0.0926, 0.0867, 0.1214, 0.1444),
        "ecoli": (0.1025, 0.0971, 0.0756, 0.0804, 0.0865),
        "seeds": (0.0832, 0.0597, 0.0536, 0.0908, 0.0953),
        "ionosphere": (0.1147, 0.1224, 0.1078, 0.1238, 0.1240),
        "congress": (0.2976, 0.2941, 0.2825, 0.5305, 0.2667),
        "car": (0.6764, 0.6896, 0.7064, 0.7084, 0.6895),
    },
    "MinMAE": {
        "iris": (0.1048, 0.0450, 0.0607, 0.0461, 0.0617),
        "wine": (0.1392, 0.0793, 0.0946, 0.0851, 0.1013),
        "yacht_hydrodynamics": (0.1924, 0.0353, 0.0546, 0.0611, 0.0460),
        "concrete_compression": (0.0940, 0.0341, 0.0464, 0.0425, 0.0322),
        "airfoil_self_noise": (0.2139, 0.0345, 0.0641, 0.0568, 0.0307),
        "glass": (0.0839, 0.0456, 0.0579, 0.0472, 0.0569),
        "breast_cancer_diagnostic": (0.0631, 0.0294, 0.0329, 0.0419, 0.0435),
        "parkinsons": (0.0711, 0.0385, 0.0449, 0.0492, 0.0522),
        "wine_quality_red": (0.0771, 0.0426, 0.0531, 0.0477, 0.0418),
        "connectionist_bench_sonar": (0.1249, 0.0778, 0.0811, 0.0999, 0.1171),
        "ecoli": (0.1025, 0.0557, 0.0642, 0.0413, 0.0563),
        "seeds": (0.0832, 0.0352, 0.0451, 0.0482, 0.0616),
        "ionosphere": (0.1147, 0.0949, 0.0985, 0.0914, 0.0960),
        "congress": (0.2976, 0.1692, 0.2215, 0.8559, 0.1890),
        "car": (0.6764, 0.3448, 0.5834, 0.7084, 0.4574),
    },
}
CATEGORICAL = "congress", "car"  # in which all columns of X are
N_NUMERIC = len(PUBLISHED["AvgMAE"]) - len(CATEGORICAL)
N_IMPUTATIONS = 5

# The rows of one experiment, the same with NaN in hidden cells, which cells are hidden, and which
# columns are categorical. Their levels are integers in the files.
Rows = namedtuple("Rows", "truth known hidden categorical")
Result = namedtuple("Result", "AvgMAE MinMAE wall processor coverage")


def load(path, experiment, max_rows=None):
    data = np.load(path)
    chosen = data[f"train_idx_{experiment}"][:max_rows]
    truth = np.column_stack([data["X"], data["y"]])[chosen].astype(float)
    hidden = np.zeros(truth.shape, bool)
    hidden[:, :-1] = data[f"mask_{experiment}"][:max_rows]
    kept = ~hidden[:, :-1].all(axis=1)
    truth, hidden = truth[kept], hidden[kept]
    names = [*data["cat_x"], *([truth.shape[1] - 1] if data["cat_y"] else [])]
    categorical = np.isin(np.arange(truth.shape[1]), names)
    return Rows(truth, np.where(hidden, np.nan, truth), hidden, categorical)


def ours(rows, seed):
    """Return the median, five draws and the model, all of one fit."""
    names = dict.fromkeys(np.flatnonzero(rows.categorical).tolist(), "categorical")
    model = GaussianVAE(columns=names, random_state=seed).fit(rows.known)
    median = model.impute(rows.known, statistic="median")
    draws = model.impute(rows.known, n_imputations=N_IMPUTATIONS, random_state=0)
    return median.astype(float), draws.astype(float), model


def nearest_neighbours(rows, seed):
    """Return the imputation on columns scaled by their known cells, as answer and only draw."""
    known = rows.known
    scaler = StandardScaler().fit(known)
    model = KNNImputer()
    answer = scaler.inverse_transform(model.fit_transform(scaler.transform(known)))
    return answer, answer[None], model


def chained_equations(rows, seed):
    """Return the default imputation and draws from five more fits."""
    known = rows.known
    draws = [
        IterativeImputer(sample_posterior=True, random_state=seed + i).fit_transform(known)
        for i in range(N_IMPUTATIONS)
    ]
    model = IterativeImputer(random_state=seed)
    return model.fit_transform(known), np.array(draws), model


MODELS = {"ours": ours, "KNNImputer": nearest_neighbours, "IterativeImputer": chained_equations}


def tidy(imputed, rows):
    """Return imputations inside the range of known cells, categorical ones at a level."""
    clipped = np.clip(imputed, np.nanmin(rows.known, axis=0), np.nanmax(rows.known, axis=0))
    return np.where(rows.categorical, np.round(clipped), clipped)


def cell_errors(imputed, rows):
    """Return the error of each cell, 0 where it is known.

    Levels are compared one-hot / 2: a wrong level costs 1/2 in two columns, so 1.
    """
    span = np.ptp(rows.truth, axis=0)
    shares = np.abs(imputed - rows.truth) / np.where(span > 0, span, 1)
    return rows.hidden * np.where(rows.categorical, imputed != rows.truth, shares)


def measures(answer, draws, rows):
    """Return AvgMAE of the answer and MinMAE of the draws."""
    of_answer = cell_errors(tidy(answer, rows), rows)  # (n, d)
    of_draws = cell_errors(tidy(draws, rows), rows).sum(axis=2)  # (n_imputations, n)
    return np.array([of_answer.sum(), of_draws.min(axis=0).sum()]) / rows.hidden.sum()


def coverage(model, rows):
    """Return the share of hidden numeric cells in the central 90 % interval of 100 draws."""
    asked = rows.hidden & ~rows.categorical
    if not asked.any():
        return np.nan
    draws = model.impute(rows.known, n_imputations=100, random_state=0).astype(float)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    return ((low <= rows.truth) & (rows.truth <= high))[asked].mean()


def evaluate(path, name, args):
    """Return means over the experiments: errors, seconds, coverage (of ours in experiment 0)."""
    found, covered = [], np.nan
    for experiment in args.experiments:
        rows = load(path, experiment, 60 if args.small else None)
        wall, processor = time.perf_counter(), time.process_time()
        answer, draws, model = MODELS[name](rows, args.seed)
        seconds = time.perf_counter() - wall, time.process_time() - processor
        found.append([*measures(answer, draws, rows), *seconds])
        if name == "ours" and experiment == 0 and args.coverage:
            covered = coverage(model, rows)
    return Result(*np.mean(found, axis=0).tolist(), float(covered))


def print_table(columns, table, decimals):
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, figures in table.items():
        print(f"| {name} | {' | '.join(f'{figure:.{decimals}f}' for figure in figures)} |")


def print_errors(measure, results, models):
    """Print the errors on each set, and their means over the numeric sets."""
    table = {
        name: [*(getattr(found[model], measure) for model in models), *PUBLISHED[measure][name]]
        for name, found in results.items()
    }
    numeric = [table[name] for name in table if name not in CATEGORICAL]
    if numeric:
        share = "the" if len(numeric) == N_NUMERIC else f"{len(numeric)} of the"
        table[f"mean of {share} {N_NUMERIC} numeric sets"] = np.mean(numeric, axis=0)
    print_table([measure, *models, *METHODS], table, decimals=4)


def main(args):
    warnings.simplefilter("ignore", category=ConvergenceWarning)  # of IterativeImputer
    results = {}
    for name in args.sets:
        path = args.data / f"imputation_{name}.npz"
        results[name] = {model: evaluate(path, model, args) for model in args.models}
        print(name, results[name], file=sys.stderr, flush=True)
    for measure in PUBLISHED:
        print_errors(measure, results, args.models)
    if "ours" in args.models:
        costs = {name: results[name]["ours"][2:] for name in results}
        columns = ["ours", "seconds", "processor seconds", "90 % coverage"]
        print_table(columns, costs, decimals=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sets = list(PUBLISHED["AvgMAE"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=sets, choices=sets)
    parser.add_argument("--experiments", nargs="+", type=int, default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-coverage", dest="coverage", action="store_false")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if args.small:
        args.experiments = [0]
    main(args)
