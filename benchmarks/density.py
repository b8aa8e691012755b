"""Held-out log density of the default GaussianVAE beside tuned classical models and a flow.

    python benchmarks/density.py DATA [--sets ...] [--models ...] [--splits 3] [--jobs 2]
                                      [--max-rows 10000] [--out density.jsonl] [--table]

DATA is a folder of ``<name>.npz`` files (X, or views v1, v2, ...); five sets come with
scikit-learn. Seeded splits, a quarter of the rows for testing, identical rows on one side. All
models see the same columns, standardised by the training rows; the log density is in these
units, in nats a row:

- at most ``--max-rows`` rows, drawn at random; constant columns are dropped;
- columns of integers, and others with more than two rows a value, are dequantised: they get
  uniform noise as wide as the spacing of their values, before the split ("dequantised");
- columns with a point mass that this noise does not spread, and columns that are linear
  functions of others, are dropped: on them a density has no upper limit ("dropped").

GaussianVAE has its defaults everywhere. PCA, FactorAnalysis, GaussianMixture and KernelDensity
are tuned by five-fold cross-validation. The flow is zuko's neural spline flow (MAF above 64
columns), with early stopping. Ours is the importance-weighted estimate of ``score_samples``,
which is on average below the log density. "Best classical" is chosen in hindsight, by the test
rows: what a user could choose is never better. Standard errors are those of the mean difference
over the test rows of a split, averaged over splits.

Each result is a line of ``--out``; a second run computes what is missing there, and ``--table``
only prints. Delete a line to have it computed again.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from density_models import CLASSICAL, MISSING, MODELS
from density_sets import HELD_OUT, TUNING, load, prepare, split
from joblib import Parallel, delayed

NAMES = sorted(TUNING + HELD_OUT)


def evaluate(folder, name, k, model, max_rows):
    """Return the result of one model on one split of one set, an error as a result too."""
    torch.set_num_threads(1)
    X, groups, about = prepare(load(folder, name), max_rows)
    train, test, groups = split(X, groups, k)
    result = {"set": name, "split": k, "model": model, **about}
    try:
        start = time.perf_counter()
        log_density, extra = MODELS[model](train, groups, k)
        result |= {"seconds": time.perf_counter() - start, **extra}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(log_density(test))
        result |= {"mean": float(values.mean()), "log_density": values.round(3).tolist()}
    except Exception as error:  # one failure must not end the run, the table shows it
        result["error"] = f"{type(error).__name__}: {error}"
    return result


def read(path):
    if not path.exists():
        return {}
    results = map(json.loads, path.read_text().splitlines())
    return {(r["set"], r["split"], r["model"]): r for r in results}


def compute(folder, names, models, n_splits, n_jobs, max_rows, path):
    done = read(path)
    jobs = [(name, k, model) for name in names for k in range(n_splits) for model in models]
    jobs = [job for job in jobs if job not in done and job[2] not in MISSING]
    run = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    calls = (delayed(evaluate)(folder, *job, max_rows) for job in jobs)
    for i, result in enumerate(run(calls)):
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        outcome = result.get("error") or f"{result['mean']:.3f} in {result['seconds']:.0f} s"
        label = f"{result['set']} {result['split']} {result['model']}"
        print(f"{i + 1}/{len(jobs)} {label}: {outcome}", flush=True)


class Comparison:
    """The results of all models on one set."""

    def __init__(self, results, name):
        self.name = name
        self.runs = {model: [] for model in MODELS}
        for (set_name, _, model), result in sorted(results.items()):
            if set_name == name:
                self.runs[model].append(result)
        self.about = next(runs[0] for runs in self.runs.values() if runs)
        finite = [m for m in CLASSICAL if np.isfinite(self.mean(m))]
        self.best_classical = max(finite, key=self.mean, default=None)

    def failures(self, model):
        """Return the results of a model that have no finite log density."""
        return [r for r in self.runs.get(model, []) if not np.isfinite(r.get("mean", np.nan))]

    def mean(self, model):
        """Return the mean log density, NaN where a split failed."""
        runs = self.runs[model]
        return np.mean([r.get("mean", np.nan) for r in runs]) if runs else np.nan

    def difference(self, model):
        """Return the mean of ours − model and its standard error, over the splits of both.

        Where ours failed it is lost by any margin; where the other failed there is none.
        """
        theirs = {r["split"]: r for r in self.runs.get(model, []) if "mean" in r}
        pairs = [(r, theirs[r["split"]]) for r in self.runs["ours"]
                 if "mean" in r and r["split"] in theirs]  # fmt: skip
        if self.failures(model) or not self.runs.get(model):
            return np.nan, np.nan
        if self.failures("ours"):
            return -np.inf, np.nan
        if not pairs:
            return np.nan, np.nan
        rows = [np.subtract(a["log_density"], b["log_density"]) for a, b in pairs]
        errors = [d.std(ddof=1) / np.sqrt(len(d)) for d in rows]
        return np.mean([d.mean() for d in rows]), np.mean(errors)

    def total(self, key):
        """Return a count of ours, summed over splits."""
        return sum(r.get(key, 0) for r in self.runs["ours"])

    def seconds(self, model):
        """Return the median of the fit times."""
        return np.median([r.get("seconds", np.nan) for r in self.runs[model] or [{}]])

    def cell(self, model):
        """Return the mean log density as text, or what went wrong."""
        if not self.runs[model]:
            return "not run"
        failures = self.failures(model)
        if failures:
            reason = failures[0].get("error", "density not finite").split(":")[0]
            return f"failed on {len(failures)} of {len(self.runs[model])}: {reason}"
        return f"{self.mean(model):.2f}"

    def row(self):
        """Return the cells of the table."""
        a, d = self.about, self.about["columns"]
        classical, flow = self.difference(self.best_classical), self.difference("flow")
        subsampled = f" of {a['raw_rows']}" if a["rows"] < a["raw_rows"] else ""
        return [
            self.name,
            f"{a['rows']}{subsampled}",
            d,
            a["dequantised"],
            a["dropped"],
            *(self.cell(model) for model in MODELS),
            self.best_classical or "none",
            *difference_cells(*classical, d),
            *difference_cells(*flow, d),
            *(f"{self.seconds(m):.0f}" if self.runs[m] else "–" for m in ("ours", "flow")),
            self.total("at_floor"),
            self.total("warnings"),
        ]


HEADER = [
    "set", "rows", "columns", "dequantised", "dropped", *MODELS, "best classical",
    "ours − best classical", "per column", "ours − flow", "per column", "ours, s", "flow, s",
    "columns at the floor", "warnings",
]  # fmt: skip


def difference_cells(difference, error, n_columns):
    """Return a difference with its standard error, and per column."""
    if np.isnan(difference):
        return "–", "–"
    return f"{difference:.2f} ± {error:.2f}", f"{difference / n_columns:.3f}"


def print_row(cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def print_tables(results, names):
    found = {name for name, _, _ in results}
    for title, group in ("Tuning", TUNING), ("Held out", HELD_OUT):
        sets = [Comparison(results, name) for name in group if name in found & set(names)]
        if sets:
            print(f"\n{title} sets\n")
            print_row(HEADER)
            print_row(["---"] * len(HEADER))
            for comparison in sets:
                print_row(comparison.row())
            summarise(title, sets)
    for model, reason in MISSING.items():
        print(f"\n{model}: {reason}; what stands above is from earlier runs.")


def summarise(title, sets):
    classical = {c: c.difference(c.best_classical)[0] / c.about["columns"] for c in sets}
    flow = {c: c.difference("flow")[0] for c in sets}
    beaten, compared = count(classical), n_known(classical)
    print(f"\n{title}: ours beats the best classical model on {beaten} of {compared} sets", end="")
    losses = {c: d for c, d in classical.items() if d < 0}
    if losses:
        worst = min(losses, key=losses.get)
        print(f", its worst loss is {-losses[worst]:.3f} nats a column ({worst.name})", end="")
    compared = n_known(flow)
    print(f"; it beats the flow on {count(flow)} of {compared}.")
    failed = [f"{m} on {c.name}" for c in sets for m in MODELS if c.failures(m)]
    print(f"Failures (of ours: lost; of others: not compared): {', '.join(failed) or 'none'}.")
    floors = [c.name for c in sets if c.total("at_floor")]
    print(f"Sets with columns at the noise floor: {', '.join(floors) or 'none'}.")
    print(f"Warnings of ours: {sum(c.total('warnings') for c in sets)}.")


def count(differences):
    return sum(d > 0 for d in differences.values())


def n_known(differences):
    return sum(not np.isnan(d) for d in differences.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="*", default=NAMES)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("density.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print the tables of --out")
    args = parser.parse_args()
    if not args.table:
        compute(args.data, args.sets, args.models, args.splits, args.jobs, args.max_rows, args.out)
    print_tables(read(args.out), args.sets)
