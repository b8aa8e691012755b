"""Speed of GaussianVAE.fit: ``make bench`` runs the short part.

    python benchmarks/speed.py [--part short epochs quality memory growth stack cuda] [--small]

- short: our fit against a hand-written torch loop, 20 000 × 32;
- epochs: seconds per epoch at three sizes, beside the loop, plain skorch, the VAEs of pythae and
  PyOD, and MLPRegressor; also of ours with what is nearest to these peers;
- quality: seconds and steps until a held-out bound is reached, beside a loop with Adam at 1e-3;
- memory: peak memory against the size of the data;
- growth: seconds of a default fit against rows and columns, with log-log slopes;
- stack: a training step of several models at once against that of one;
- cuda: seconds per epoch beside the loop and a captured graph; skipped where there is no CUDA.

Ours and the hand-written loop train the same network with the same batches, bound, gradient
clipping and optimiser for the same number of epochs. The fit also scales the data, finds its
start, and evaluates the validation rows after every epoch; the loop does none of that. Runs
alternate, so that a busy machine slows all alike; the median ratio is what counts. All run on
one thread, but for CUDA. ``--small`` takes sizes at which one only sees that everything works.
"""

import argparse
import statistics
import time
import warnings
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from speed_peers import FITS, Setting, data, hand_written, n_training_rows, ours
from threadpoolctl import threadpool_limits

# The rows, made when they are needed, and the setting of part ``epochs``.
SIZES = {
    "digits": (lambda: load_digits().data.astype(np.float32), Setting(100, 128)),
    "20 000 × 32": (partial(data, 20_000, 32), Setting(10, 256)),
    "200 000 × 64": (partial(data, 200_000, 64), Setting(3, 512)),
}
SMALL_SIZES = {"1000 × 8": (partial(data, 1000, 8), Setting(2, 128))}


def standardised(X):
    mean, scale = X.mean(0), X.std(0)
    return (X - mean) / np.where(scale > 0, scale, 1)


def seconds_of(fit, X, setting):
    start = time.perf_counter()
    fit(X, setting)
    return time.perf_counter() - start


def short(n_rows=20_000, n_columns=32, epochs=20, n_pairs=5):
    X, setting = data(n_rows, n_columns), Setting(epochs, 256)
    print(f"{n_rows} x {n_columns}, batch 256, {epochs} epochs, {setting.draws} draws")
    for fit in (hand_written, ours):  # warm up
        fit(X, setting)
    ratios = []
    for _ in range(n_pairs):
        ratios.append(seconds_of(ours, X, setting) / seconds_of(hand_written, X, setting))
        print(f"fit / hand-written loop: {ratios[-1]:.2f}", flush=True)
    print(f"median of {n_pairs} pairs: {statistics.median(ratios):.2f}")


def epochs(small=False, n_rounds=5):
    """Print seconds per epoch: those of the whole fit, divided by its epochs."""
    for title, (make, setting) in (SMALL_SIZES if small else SIZES).items():
        compare(title, make(), setting, 2 if small else n_rounds)


def compare(title, X, setting, n_rounds):
    X = standardised(X)  # ours does it again, most peers do not
    fits = {name: fit for name, fit in FITS.items() if warm_up(name, fit, X, setting)}
    rounds = []
    for _ in range(n_rounds):
        rounds.append({name: seconds_of(fit, X, setting) for name, fit in fits.items()})
    print(f"\n{title}: batch {setting.batch_size}, {setting.epochs} epochs, {n_rounds} rounds, "
          f"{n_training_rows(X)} training rows\n")  # fmt: skip
    print("| | seconds per epoch | ours / this | ours, as peers / this |\n|---|---|---|---|")
    for name in fits:
        seconds = statistics.median(r[name] for r in rounds) / setting.epochs
        ratios = [statistics.median(r[mine] / r[name] for r in rounds)
                  for mine in ("ours", "ours, as peers")]  # fmt: skip
        print(f"| {name} | {seconds:.3g} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    for name in FITS.keys() - fits.keys():
        print(f"| {name} | not run | | |")


def warm_up(name, fit, X, setting):
    """Run one epoch; return whether the fit works here."""
    try:
        fit(X[:1000], setting._replace(epochs=1))
    except ImportError as error:
        print(f"{name} is skipped: {error}")
        return False
    except Exception as error:  # a peer may not go with this version of torch
        print(f"{name} failed: {type(error).__name__}: {error}")
        return False
    return True


def main(parts, small):
    # Only here: peak memory is measured in processes that load no more than they need.
    import speed_cuda
    import speed_growth
    import speed_memory
    import speed_quality
    import speed_stack

    functions = {
        "short": lambda small: short(1000, 8, 2, 2) if small else short(),
        "epochs": epochs,
        "quality": speed_quality.main,
        "memory": speed_memory.main,
        "growth": speed_growth.main,
        "stack": speed_stack.main,
        "cuda": speed_cuda.main,
    }
    for part in parts:
        if part != "short":
            print(f"\n### {part}")
        functions[part](small)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["short", "epochs", "quality", "memory", "growth", "stack", "cuda"]
    parser.add_argument("--part", nargs="*", default=["short"], choices=names)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of fits that are stopped early on purpose
    torch.set_num_threads(1)
    with threadpool_limits(1):
        main(args.part, args.small)
