"""Time to quality: a part of speed.py.

A curve is the held-out bound after each epoch, with the steps and the seconds until then; the
seconds of the evaluation itself are left out, those before the first step are not.
"""

import math
import time

import numpy as np
import torch
from skorch.callbacks import Callback
from speed_peers import DRAWS, HIDDEN, data, n_training_rows

from skgvae import GaussianVAE
from skgvae.net import RowDataset
from skgvae.nn import GaussianVAEModule
from skgvae.objectives import NegativeBound, importance_weighted_bound

LONGER = 10  # times the steps of ours that the loop may take
DRAWS_HELD_OUT = 16


class Curve(Callback):
    """Record (steps, seconds, bound) at the start and after every epoch."""

    def __init__(self, rows):
        self.rows = rows
        self.points, self.steps, self.start = [], 0, time.perf_counter()

    def add(self, steps, bound):
        """Record ``bound()`` and stop the clock meanwhile."""
        before = time.perf_counter()
        self.steps += steps
        self.points.append((self.steps, before - self.start, bound()))
        self.start += time.perf_counter() - before

    def on_train_begin(self, net, **kwargs):
        """Record the start."""
        self.add(0, lambda: self.bound(net))

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        """Record an epoch."""
        steps = math.ceil(len(dataset_train) / net.batch_size)
        self.add(steps, lambda: self.bound(net))

    def bound(self, net):
        """Return the held-out bound."""
        n_draws, net.n_valid_draws = net.n_valid_draws, DRAWS_HELD_OUT
        bound = -net.evaluate(self.rows)["loss"]
        net.n_valid_draws = n_draws
        return bound

    def reached(self, level):
        """Return steps and seconds until the bound reached a level, or None."""
        return next(((steps, s) for steps, s, bound in self.points if bound >= level), None)

    def best(self):
        """Return the best bound on the way."""
        return max(bound for _, _, bound in self.points)


def fit(X, rows, prior):
    curve, params = Curve(rows), {"prior": prior, "n_estimators": 1, "device": "cpu"}
    vae = GaussianVAE(**params, random_state=0, net_params={"callbacks": [curve]}).fit(X)
    kept = curve.points[vae.best_epoch_][2]
    return curve, kept, vae


def adam_loop(X, rows, n_components, batch_size, n_steps):
    """Train from random weights with Adam at 1e-3, the bound and the batches of ours."""
    torch.manual_seed(0)
    curve = Curve(rows)
    x = torch.from_numpy(X[len(X) - n_training_rows(X) :])
    vae = GaussianVAEModule(X.shape[1], n_components, hidden_features=HIDDEN)
    loss = NegativeBound(importance_weighted_bound)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    curve.add(0, lambda: held_out(vae, rows))
    while curve.steps < n_steps:
        parts = torch.randperm(len(x)).split(batch_size)
        for part in parts:
            batch, eps = x[part], torch.randn(DRAWS, len(part), n_components)
            optimizer.zero_grad()
            loss(vae, batch, batch, eps).loss.backward()
            optimizer.step()
        curve.add(len(parts), lambda: held_out(vae, rows))
    return curve


@torch.no_grad()
def held_out(vae, rows):
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(DRAWS_HELD_OUT, len(rows), vae.encoder.out_features, generator=generator)
    return importance_weighted_bound(vae, rows.v1, rows.v1, eps).value.mean().item()


def digits():
    from sklearn.datasets import load_digits

    X = load_digits().data
    X = X + np.random.default_rng(0).random(X.shape)  # a density needs a continuum
    return X[:, load_digits().data.std(0) > 0].astype(np.float32)


def main(small=False):
    sets = {"digits": digits(), "20 000 × 32": data(20_000, 32), "200 000 × 64": data(200_000, 64)}
    if small:
        sets = {"1000 × 8": data(1000, 8)}
    print(
        "Ours is the default fit of one model, and that with prior='standard'; the loop starts "
        "at random, has the prior N(0, I) and trains with Adam at 1e-3 for "
        f"{LONGER} times the steps of the default fit. Bounds: nats a row, of 16 draws, on "
        "held-out rows.\n"
    )
    print("| data | prior | bound of ours | in | the loop reaches it after | best of the loop "
          "| ours reaches it after | steps of ours / loop |\n" + "|---" * 8 + "|")  # fmt: skip
    for name, X in sets.items():
        for row in rows_of(name, X):
            print("| " + " | ".join(row) + " |", flush=True)


def rows_of(name, X):
    X = X[np.random.default_rng(0).permutation(len(X))]
    n_test = min(len(X) // 4, 5000)
    mean, scale = X[n_test:].mean(0), X[n_test:].std(0)
    X = (X - mean) / scale
    rows, X = RowDataset(torch.from_numpy(X[:n_test])), X[n_test:]
    fits = {prior: fit(X, rows, prior) for prior in ("mixture", "standard")}
    mine, _, vae = fits["mixture"]
    n_steps = LONGER * mine.points[-1][0]
    theirs = adam_loop(X, rows, vae.n_components_, vae.net_.batch_size, n_steps)
    best = theirs.best()
    for prior, (mine, level, _) in fits.items():
        a, b = mine.reached(best), theirs.reached(best)
        yield (
            name,
            prior,
            f"{level:.2f}",
            describe(mine.points[-1][:2]),
            describe(theirs.reached(level)) or f"never ({describe(theirs.points[-1][:2])})",
            f"{best:.2f} after {describe(b)}",
            describe(a) or "never",
            f"{a[0] / b[0]:.2f}" if a else "",
        )


def describe(point):
    return point and f"{point[0]} steps, {point[1]:.1f} s"
