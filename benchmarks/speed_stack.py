"""What a training step costs for several models at once: part ``stack`` of speed.py."""

import time

import torch
from speed_peers import DRAWS, HIDDEN

from skgvae.net import GaussianVAENet, RowDataset, StackedRows
from skgvae.nn import GaussianVAEModule
from skgvae.objectives import importance_weighted_bound

N_ROWS, BATCH_SIZE, N_COLUMNS, N_LATENTS = 400, 25, 30, 8


def milliseconds_per_step(n_models, n_prior_components, n_epochs, n_rounds):
    """Return the processor time of a step, the best of several rounds."""
    X = torch.randn(N_ROWS, N_COLUMNS, generator=torch.Generator().manual_seed(0))
    params = {"hidden_features": HIDDEN, "n_prior_components": n_prior_components}
    modules = [GaussianVAEModule(N_COLUMNS, N_LATENTS, **params) for _ in range(n_models)]
    net = GaussianVAENet(
        modules,
        seed=list(range(n_models)),
        criterion__bound=importance_weighted_bound,
        criterion__n_draws=DRAWS,
        batch_size=BATCH_SIZE,
        max_epochs=n_epochs,
    )
    rows, times = StackedRows([RowDataset(X)] * n_models), []
    for _ in range(n_rounds):
        start = time.process_time()
        net.partial_fit(rows)
        times.append(time.process_time() - start)
    return 1000 * min(times) / (n_epochs * N_ROWS // BATCH_SIZE)


def main(small=False):
    """Print the cost for 1, 2, 5, ... models, with either prior."""
    print(f"\nbatches of {BATCH_SIZE} rows of {N_COLUMNS} columns, {N_LATENTS} latents\n")
    print("| models | step, ms | / one model | of 4 prior components, ms | / one model |")
    print("|---|---|---|---|---|")
    setting = (1, 1) if small else (10, 5)
    one = None
    for n_models in (1, 2) if small else (1, 2, 5, 10, 25, 50, 125):
        times = [milliseconds_per_step(n_models, n, *setting) for n in (None, 4)]
        one = one or times
        cells = (f"{t:.2f} | {t / first:.1f}" for t, first in zip(times, one, strict=True))
        print(f"| {n_models} | {' | '.join(cells)} |", flush=True)
