"""Seconds of GaussianVAE.fit against a hand-written torch loop: ``make bench``.

Both train the same network with the same batches, bound, gradient clipping and optimiser for
the same number of epochs on one thread. The fit also scales the data, finds its start, and
evaluates the validation rows after every epoch; the loop does none of that. Pairs alternate,
so that a busy machine slows both alike; the median ratio is what counts.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from skgvae import GaussianVAE
from skgvae.nn import GaussianVAEModule
from skgvae.objectives import NegativeBound, importance_weighted_bound


def hand_written(X, n_epochs, batch_size, n_components, n_train_draws):
    x = torch.from_numpy(X).float()
    vae = GaussianVAEModule(X.shape[1], n_components, hidden_features=(64, 64))
    loss = NegativeBound(importance_weighted_bound)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=5e-3, weight_decay=0.0, fused=True)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            batch = x[rows]
            eps = torch.randn(n_train_draws, len(rows), n_components)
            optimizer.zero_grad()
            loss(vae, batch, batch, eps).loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 10.0)
            optimizer.step()


def main(n_rows, n_columns, n_epochs, n_pairs):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, 8)) @ rng.standard_normal((8, n_columns))
    X = (X + 0.3 * rng.standard_normal(X.shape)).astype(np.float32)
    settings = {"n_components": 16, "batch_size": 256}
    vae = GaussianVAE(max_epochs=n_epochs, device="cpu", random_state=0, **settings)
    draws = vae.n_train_draws
    n_train = n_rows - int(np.ceil(vae.validation_fraction * n_rows))

    def fit():
        vae.fit(X)

    def loop():
        with threadpool_limits(1, user_api="openmp"):
            hand_written(X[:n_train], n_epochs, n_train_draws=draws, **settings)

    loop(), fit()  # warm up
    ratios = []
    print(f"{n_rows} x {n_columns}, batch 256, {n_epochs} epochs, {draws} draws")
    for _ in range(n_pairs):
        seconds = {}
        for run in (fit, loop):
            start = time.perf_counter()
            run()
            seconds[run.__name__] = time.perf_counter() - start
        ratios.append(seconds["fit"] / seconds["loop"])
        print(f"fit / hand-written loop: {ratios[-1]:.2f}")
    print(f"median of {n_pairs} pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    main(args.rows, args.columns, args.epochs, args.pairs)
