"""How wrong scores are, how long they take, and whether they fall with the distance.

    python benchmarks/answers.py DATA [--sets ...] [--rows 100]

For each set the default GaussianVAE is fitted to the first split of density.py. Test rows, at
most ``--rows``, are scored twice: with the draws that ``score_samples`` takes, and with others,
of which there are 16 times as many and which are taken until the standard error is a fourth. The
table has the differences in nats, and processor time on one thread. "rays" are 40 half-lines from
the mean of the training rows, every second through one of them, at 60 distances up to 1000
standard deviations: on how many of them, farther than 10 from each training row, does the score
rise, and by how many nats at most?
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import recipe
import torch

from skgvae import GaussianVAE, _density
from skgvae.likelihood import latent_draws

SETS = ["20x5", "iris", "diabetes", "breast_cancer", "digits", "ad_breastw", "ad_cardio",
        "den_oil_flow", "imp_banknote", "2000x20"]  # fmt: skip
TIMES = 16
N_RAYS = 40


def reference(model, X, n_first):
    """Return scores from 16 times the draws."""
    before, _density.TOLERANCE = _density.TOLERANCE, _density.TOLERANCE / TIMES**0.5
    n_all, modules = TIMES * n_first, model._for_inference(np.float64)
    draws = [latent_draws(_density.ROUNDS[-1] * n_all, model.n_components_, 10**6 + m)
             for m in range(len(modules))]  # fmt: skip
    rows = torch.from_numpy(model._units.forward(X))
    parts = [_density.log_density(modules, own, own, draws, n_all) for own in rows.split(10)]
    _density.TOLERANCE = before
    return torch.cat([part.log_prob for part in parts]).numpy() - model._units.log_abs_det(X)


def rises(model, X):
    """Return on how many rays the score rises far out, and the largest rise."""
    rng, mean, scale = np.random.default_rng(0), X.mean(0), X.std(0)
    rows, n_rising, largest = (X - mean) / scale, 0, 0.0
    for i in range(N_RAYS):
        chosen = rows[rng.integers(len(rows))] if i % 2 else rng.standard_normal(X.shape[1])
        ray = np.geomspace(3, 1000, 60)[:, None] * chosen / np.linalg.norm(chosen)
        nearest = np.array([np.sqrt(((rows - point) ** 2).sum(1).min()) for point in ray])
        rise = np.diff(model.score_samples(ray * scale + mean)[nearest > 10]).max()
        n_rising, largest = n_rising + (rise > 1e-9), max(largest, rise)
    return n_rising, largest


def main(args):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    columns = "set", "nll", "ms a row", "mean error", "rms", "above 0.1", "largest"
    columns += f"rays that rise, of {N_RAYS}", "largest rise"
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in args.sets:
        table = recipe.rows("GaussianVAE", args.data, name, 0)
        X, X_test = table["X"], table["X_test"]
        X_test, model = X_test[: args.rows], GaussianVAE(random_state=0).fit(X)
        model.score_samples(X_test[:2])
        start = time.process_time()
        scores = model.score_samples(X_test)
        milliseconds = 1e3 * (time.process_time() - start) / len(X_test)
        error = scores - reference(model, X_test, -(-model.n_draws // len(model.modules_)))
        n_rising, largest = rises(model, X)
        print(
            f"| {name} | {-scores.mean():.2f} | {milliseconds:.2f} | {error.mean():.3f} "
            f"| {np.sqrt((error**2).mean()):.3f} | {(np.abs(error) > 0.1).mean():.0%} "
            f"| {np.abs(error).max():.2f} | {n_rising} | {largest:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--rows", type=int, default=100)
    main(parser.parse_args())
