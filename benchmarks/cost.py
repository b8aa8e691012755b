"""What default fits cost, beside another commit of the package and beside other models.

    python benchmarks/cost.py [DATA] [--baseline COMMIT [--baseline-python PATH]]
                              [--parts fits steps first] [--estimators ...] [--sets ...]
                              [--repeats 3] [--no-peers] [--quick | --full] [--json cost.json]

- fits: processor seconds of a default fit on one thread, wall seconds on all cores, the held-out
  scores of the former, and wall milliseconds of its answers for one row of float64;
- steps: steps per second of a fit and of the hand-written loop of speed.py, on one thread;
- first: processor seconds of the imports and of the first fit in a new process, and of loading a
  fitted model in another one.

Each measurement is a process of its own (cost_child.py). "ours" is this checkout. It and the
baseline alternate; figures are medians over the repeats, and each repeat has its own seed. Peers
are fitted once, with the search of density.py for GaussianMixture and default settings otherwise.
The sets come with scikit-learn or are simulated (rows x columns); with DATA, the folder of
density.py, regression.py and classification.py, their sets are added. The split is the first of
those benchmarks; on other sets of the regressor a quarter of the rows is held out.

"nll" is the negative log-likelihood in nats a row: of the density in training units, of y given x
in the units of y, or the log loss. "error" is the RMSE, or the share of wrong classes. "ours / it"
is the time of ours divided by the time of the model in the line: below 1, ours is faster.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import classification
import density
import density_sets
import numpy as np
import regression
import speed
from cost_child import ANSWERS, PEERS
from sklearn.model_selection import train_test_split
from speed_peers import data

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SIMULATED = ("20x5", "2000x20", "10000x16")
SETS = {  # our own, and with DATA
    "GaussianVAE": ((*SIMULATED, *density_sets.BUNDLED), tuple(density.NAMES)),
    "GaussianVAERegressor": ((*SIMULATED, "diabetes"), tuple(regression.PUBLISHED)),
    "GaussianVAEClassifier": ((*SIMULATED, "iris", *classification.BUNDLED), classification.SETS),
}
NEEDED = {"flow": "zuko", "NGBoost": "ngboost"}


class Version(NamedTuple):
    """A checkout of the package and the interpreter that runs it."""

    folder: Path
    python: str

    def run(self, job):
        """Return the result of a job in a new process, or its error."""
        env = {name: value for name, value in os.environ.items() if name not in THREADS}
        env |= dict.fromkeys(THREADS, "1") if job["one_thread"] else {}
        paths = [str(self.folder), *filter(None, [env.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
        command = [self.python, "-W", "ignore", ROOT / "benchmarks/cost_child.py", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:  # one failure must not end the run
            return {"failed": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}
        result = json.loads(done.stdout.splitlines()[-1])
        if self.folder not in Path(result["package"]).parents:
            raise RuntimeError(f"{self.python} imports {result['package']}, not {self.folder}.")
        return result


def check_out(commit, python):
    """Return the version of a commit, in a work tree below build/, by its short name."""
    git = ["git", "-C", str(ROOT)]
    command = [*git, "rev-parse", "--short", "--verify", f"{commit}^{{commit}}"]
    name = subprocess.check_output(command, text=True).strip()
    folder = ROOT / "build" / name
    if not folder.exists():
        subprocess.run([*git, "worktree", "prune"], check=True)  # of those that make clean removed
        subprocess.run([*git, "worktree", "add", "-q", "--detach", folder, name], check=True)
    return {name: Version(folder, python)}


class Benchmark:
    """What all measurements share, and the records of those that were made."""

    def __init__(self, versions, args, scratch):
        self.versions, self.args, self.scratch, self.records = versions, args, scratch, []

    def measure(self, models, arrays, repeats=None, **job):
        """Run a job on the rows for each model in turn, and again, peers once."""
        files = {"rows": str(self.scratch / "rows.npz")}
        np.savez(files["rows"], **arrays)
        for seed in range(repeats or self.args.repeats):
            for model in [m for m in models if seed == 0 or m in self.versions]:
                job |= {"model": model, "seed": seed}
                files["pickle"] = str(self.scratch / f"{model}.pickle")
                result = self.versions.get(model, self.versions["ours"]).run({**job, **files})
                if "failed" in result:
                    print(f"{model} failed: {result['failed']}", flush=True)
                self.records.append({**job, **result})
                if self.args.json:
                    self.args.json.write_text(json.dumps(self.records, indent=1))

    def median(self, key, **job):
        """Return the median of a figure of a job over its repeats, NaN where there is none."""
        matching = [r for r in self.records if job.items() <= r.items()]
        values = [r[key] for r in matching if r.get(key) is not None]
        return float(statistics.median(values)) if values else np.nan


class Table:
    """Aligned rows, each printed as soon as it is there; the first two columns are labels."""

    def __init__(self, title, *header):
        self.widths = [max(len(name), 22 if i < 2 else 7) for i, name in enumerate(header)]
        print(f"\n{title}\n")
        self.row(*header)

    def row(self, *cells):
        """Print a row."""
        cells = [number(cell) if isinstance(cell, float) else str(cell) for cell in cells]
        sides = [str.ljust] * 2 + [str.rjust] * (len(cells) - 2)
        cells = [side(*pair) for side, *pair in zip(sides, cells, self.widths, strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def number(value, form=".3g"):
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else format(value, form)


def simulate(name):
    """Return X and y of a size such as 2000x20, None for another name."""
    if re.fullmatch(r"\d+x\d+", name):
        n_rows, n_columns = map(int, name.split("x"))
        rows = data(n_rows, n_columns + 1).astype(float)
        return rows[:, :-1], rows[:, -1]


def load(kind, name, folder, max_rows):
    """Return training and test rows; the ``y`` of a density are groups of identical rows."""
    simulated = simulate(name)
    if kind == "GaussianVAE":
        if simulated:
            X, groups = simulated[0], np.arange(len(simulated[0]))
        else:
            X, groups, _ = density_sets.prepare(density_sets.load(folder, name), max_rows)
        X, X_test, groups = density_sets.split(X, groups, 0)
        return {"X": X, "y": groups, "X_test": X_test}
    if kind == "GaussianVAERegressor" and name in regression.PUBLISHED:
        rows = regression.load(folder / f"reg_{name}.npz", 0)
        return dict(zip(("X", "y", "X_test", "y_test"), rows, strict=True))
    if name in density_sets.BUNDLED:
        X, y = density_sets.BUNDLED[name](return_X_y=True)
    else:
        X, y = simulated or classification.load(folder, name)
    if kind == "GaussianVAEClassifier":
        y = (y > np.median(y)).astype(int) if simulated else y
        train, test = classification.splits(y, 1)[0]
    else:
        train, test = train_test_split(np.arange(len(X)), test_size=0.25, random_state=0)
    return {"X": X[train], "y": y[train], "X_test": X[test], "y_test": y[test]}


def fit_set(bench, models, kind, name, n_rows, n_calls, repeats=None):
    """Fit models to a set, on one thread and on all cores; return the shape of its rows."""
    arrays = load(kind, name, bench.args.data, bench.args.max_rows)
    job = {"part": "fit", "estimator": kind, "set": name, "n_rows": n_rows, "n_calls": n_calls}
    for threads in bench.args.threads:
        bench.measure(models, arrays, repeats, one_thread=threads == "one", **job)
    return arrays["X"].shape


def cost(bench, **job):
    """Return processor seconds on one thread, wall seconds on all cores, scores and epochs."""
    keys = {"processor": True, "wall": False, "nll": True, "error": True, "n_epochs": True}
    return np.array([bench.median(key, one_thread=one, n_rows=1, **job)
                     for key, one in keys.items()])  # fmt: skip


def fits(bench, kind, names, peers):
    """Print what default fits of an estimator cost, and its answers."""
    table = Table(f"{kind}: default fits", "set", "model", "rows", "columns", "processor, s",
                  "ours / it", "wall, s", "ours / it", "nll", "error", "epochs")  # fmt: skip
    for name in names:
        shape = fit_set(bench, [*bench.versions, *peers], kind, name, n_rows=1, n_calls=50)
        ours = cost(bench, estimator=kind, set=name, model="ours")
        for model in [*bench.versions, *peers]:
            it = cost(bench, estimator=kind, set=name, model=model)
            seconds = zip(it[:2], ours[:2] / it[:2], strict=True)
            table.row(name, model, *shape, *chain(*seconds), number(it[2], ".3f"), *it[3:])
    for model in list(bench.versions)[1:]:
        summarise(bench, kind, names, model)
    print_answers(f"{kind}: answers for one row, ms", bench, kind, names, 1)
    if bench.args.full:
        fit_set(bench, bench.versions, kind, "2000x32", n_rows=10**6, n_calls=1, repeats=1)
        print_answers(f"{kind}: for a million rows, ms", bench, kind, ["2000x32"], 10**6)


def summarise(bench, kind, names, baseline):
    """Print means over the sets on which both fits succeeded."""
    ours, theirs = (np.array([cost(bench, estimator=kind, set=name, model=model)
                              for name in names]) for model in ("ours", baseline))  # fmt: skip
    both = np.isfinite(ours[:, 0] * theirs[:, 0])
    if both.any():
        processor, wall = np.exp(np.log(ours[both, :2] / theirs[both, :2]).mean(0))
        nll = (ours - theirs)[both, 2]
        print(f"\nours / {baseline}, geometric means of {both.sum()} sets: processor time "
              f"{number(processor)}, wall time {number(wall)}; ours - {baseline}, nll: "
              f"median {np.median(nll):+.3f}, worst {nll.max():+.3f}.")  # fmt: skip


def print_answers(title, bench, kind, names, n_rows):
    """Print the time of the answers that the estimator has, on one thread and on all cores."""
    columns = {f"{answer}{'' if one else ', all cores'}": {"key": answer, "one_thread": one}
               for answer in ANSWERS for one in (True, False)}  # fmt: skip
    labels = [(name, model) for name in names for model in bench.versions]
    cells = np.array([[bench.median(estimator=kind, set=name, model=model, n_rows=n_rows, **column)
                       for column in columns.values()] for name, model in labels])  # fmt: skip
    known = np.isfinite(cells).any(0)
    table = Table(title, "set", "model", *np.array(list(columns))[known])
    for label, row in zip(labels, cells, strict=True):
        table.row(*label, *row[known])


def steps(bench):
    """Print steps per second beside the hand-written loop."""
    sizes = list((speed.SMALL_SIZES if bench.args.quick else speed.SIZES).items())
    table = Table("Steps per second on one thread", "size", "model", "ours", "loop", "ours / loop")
    for title, (make, setting) in sizes if bench.args.full else sizes[:2]:
        job = {"part": "steps", "set": title, "one_thread": True}
        job |= {"epochs": setting.epochs, "batch_size": setting.batch_size}
        bench.measure(bench.versions, {"X": speed.standardised(make())}, **job)
        for model in bench.versions:
            ours, loop = (bench.median(k, model=model, **job) for k in ("ours", "loop"))
            table.row(title, model, ours, loop, ours / loop)


def first(bench):
    """Print what comes once in a process: imports, and more in a first fit than in a second."""
    arrays = load("GaussianVAE", "20x5", None, None)
    for part in ("first", "load"):
        bench.measure(bench.versions, arrays, part=part, set="20x5", one_thread=True)
    columns = {"import dependencies": "dependencies", "import skgvae": "skgvae", "first fit":
               "first", "second fit": "second", "pickle.load": "load"}  # fmt: skip
    table = Table("A new process, GaussianVAE, processor seconds", "set", "model", *columns,
                  "torch._dynamo")  # fmt: skip
    for model in bench.versions:
        seconds = [bench.median(key, model=model, set="20x5") for key in columns.values()]
        dynamo = {0: "no", 1: "imported"}.get(bench.median("dynamo", model=model), "–")
        table.row("20x5", model, *seconds, dynamo)


def main(args, scratch):
    versions = {"ours": Version(ROOT, sys.executable)}
    if args.baseline:
        versions |= check_out(args.baseline, args.baseline_python)
    bench = Benchmark(versions, args, scratch)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; repeats: {args.repeats}")
    missing = [peer for peer, package in NEEDED.items() if not find_spec(package)]
    for kind in args.estimators if "fits" in args.parts else ():
        known = list(dict.fromkeys(SETS[kind][0] + (SETS[kind][1] if args.data else ())))
        names = [name for name in args.sets or known if name in known or simulate(name)]
        peers = [p for p in PEERS[kind] if args.peers and p not in missing]
        if names:
            fits(bench, kind, names, peers)
    if "steps" in args.parts:
        steps(bench)
    if "first" in args.parts:
        first(bench)
    for peer in missing if "fits" in args.parts and args.peers else ():
        print(f"\n{peer} is not run: {NEEDED[peer]} is not installed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["fits", "steps", "first"]
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--estimators", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sets", nargs="+", help="names, or sizes such as 2000x20")
    parser.add_argument("--max-rows", type=int, default=2000, help="of the sets of density.py")
    parser.add_argument("--threads", nargs="+", default=["one", "all"], choices=["one", "all"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--baseline", metavar="COMMIT")
    parser.add_argument("--baseline-python", metavar="PATH", default=sys.executable)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two sets, once, on one thread")
    parser.add_argument("--full", action="store_true", help="also 200 000 × 64, a million answers")
    if parser.parse_args().quick:
        parser.set_defaults(sets=["iris", "diabetes"], repeats=1, threads=["one"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(args, Path(scratch))
