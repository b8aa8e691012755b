"""Growth of the fit time with rows and with columns: a part of speed.py."""

import time

import numpy as np
from speed_peers import data

from skgvae import GaussianVAE

ROWS = (1_000, 10_000, 100_000, 1_000_000)
COLUMNS = (8, 32, 128, 512, 1024)


def main(small=False):
    rows, columns = ((500, 1000), (8, 16)) if small else (ROWS, COLUMNS)
    n_rows, n_columns = (500, 8) if small else (5000, 16)
    table("rows", f"{n_columns} columns", rows, lambda n: data(n, n_columns))
    table("columns", f"{n_rows} rows", columns, lambda d: data(n_rows, d))


def table(what, fixed, sizes, make):
    """Print seconds of a default fit, and of one of two epochs: the starts, and little more."""
    print(f"\n| {what}, {fixed} | default fit, s | epochs | two epochs, s |\n|---|---|---|---|")
    seconds = []
    for size in sizes:
        X = make(size)
        default, n_epochs = timed_fit(X, "auto")
        two, _ = timed_fit(X, 2)
        seconds.append((default, two))
        print(f"| {size} | {default:.2f} | {n_epochs} | {two:.2f} |", flush=True)
    logs = np.log(sizes), np.log(seconds)
    overall = np.polyfit(*logs, 1)[0]
    last = np.diff(logs[1][-2:], axis=0)[0] / np.diff(logs[0][-2:])
    print(f"| slope | {overall[0]:.2f} | | {overall[1]:.2f} |")
    print(f"| slope of the last two | {last[0]:.2f} | | {last[1]:.2f} |")


def timed_fit(X, max_epochs):
    start = time.perf_counter()
    vae = GaussianVAE(max_epochs=max_epochs, device="cpu", random_state=0).fit(X)
    return time.perf_counter() - start, vae.n_epochs_
