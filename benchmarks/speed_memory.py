"""Peak memory against the size of the data: a part of speed.py.

    python benchmarks/speed_memory.py FIT ROWS COLUMNS     # one measurement

A process for each measurement prints what its peak memory rose by, from before the data were
there to the end of an epoch, as a multiple of the data (float32).
"""

import resource
import subprocess
import sys

import torch
from speed_peers import FITS, Setting, data

SIZES = ((250_000, 64), (1_000_000, 64), (4_000_000, 64))
NAMES = ("ours", "hand-written loop", "MLPRegressor")


def peak():
    """Return the peak resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(name, n_rows, n_columns):
    torch.set_num_threads(1)
    FITS[name](data(2000, n_columns), Setting(1, 256))  # what is loaded at the first fit
    before = peak()
    X = data(n_rows, n_columns)
    FITS[name](X, Setting(1, 512))
    return (peak() - before) / X.nbytes


def main(small=False):
    print("Batches of 512, one epoch; peak memory, that of the data included, as a multiple of "
          "the data.\n")  # fmt: skip
    print(
        "| rows × columns | MB | " + " | ".join(NAMES) + " |\n" + "|---" * (2 + len(NAMES)) + "|"
    )
    for n_rows, n_columns in ((20_000, 64),) if small else SIZES:
        cells = [in_process(name, n_rows, n_columns) for name in NAMES]
        megabytes = 4e-6 * n_rows * n_columns
        print(f"| {n_rows} × {n_columns} | {megabytes:.0f} | {' | '.join(cells)} |", flush=True)


def in_process(*args):
    command = [sys.executable, "-W", "ignore", __file__, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1:]}"
    return done.stdout.strip()


if __name__ == "__main__":
    print(f"{measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):.2f}")
