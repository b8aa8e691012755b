"""Extra memory of answers for many rows.

    python benchmarks/inference_memory.py
    python benchmarks/inference_memory.py --rows 100000 --methods reconstruct predict_proba

A process for each method fits a small model, makes rows of 32 float64 columns and calls the
method on two of them, so that what is loaded at the first call is there. Extra memory is what
resident memory rises by in a call with all rows, at its peak, less the size of the answer. On
Linux only: the peak is set back before the call.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from speed_memory import peak

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

N_COLUMNS = 32
N_GAUSSIANS = 64  # the most that there are by default, of which each costs memory
N_DRAWS = 32  # from which on a chunk of draws has its full size
METHODS = {
    "GaussianVAE": ("transform", "score_samples", "reconstruct"),
    "GaussianVAERegressor": ("predict", "predict_interval"),
    "GaussianVAEClassifier": ("predict_proba",),
}
ESTIMATORS = {kind.__name__: kind for kind in (GaussianVAE, GaussianVAERegressor,
                                               GaussianVAEClassifier)}  # fmt: skip


def measure(name, method, n_rows):
    """Return extra and answer in bytes, and seconds."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, N_COLUMNS))
    few = X[:3000]
    params = {"prior": N_GAUSSIANS} if name == "GaussianVAE" else {}
    model = ESTIMATORS[name](n_draws=N_DRAWS, max_epochs=2, random_state=0, **params)
    method = getattr(model.fit(few, (few[:, 0] > 0).astype(int)), method)
    method(X[:2])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before, start = peak(), time.perf_counter()
    answer = method(X)
    return peak() - before - answer.nbytes, answer.nbytes, time.perf_counter() - start


def in_process(*args):
    command = [sys.executable, "-W", "ignore", __file__, "--one", *map(str, args)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return map(float, done.stdout.split())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    default = ("transform", "score_samples", "predict_interval")
    parser.add_argument("--methods", nargs="+", default=default)
    parser.add_argument("--one", nargs=2, metavar=("ESTIMATOR", "METHOD"), help="one measurement")
    args = parser.parse_args()
    if args.one:
        print(*measure(*args.one, args.rows))
        return
    print(f"{args.rows} × {N_COLUMNS} float64, {1e-6 * args.rows * N_COLUMNS * 8:.0f} MB\n")
    print("| estimator | method | answer, MB | extra, MB | s |\n|---|---|---|---|---|")
    for name, methods in METHODS.items():
        for method in [m for m in methods if m in args.methods]:
            extra, answer, seconds = in_process(name, method, "--rows", args.rows)
            cells = f"{1e-6 * answer:.0f} | {1e-6 * extra:.0f} | {seconds:.0f}"
            print(f"| {name} | {method} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
