"""The models of density.py: each function fits one and returns it with its log density."""

import copy
import warnings

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KernelDensity

from skgvae import GaussianVAE

try:
    import zuko
except ImportError:
    zuko = None


def ours(X, groups, seed):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vae = GaussianVAE(random_state=seed).fit(X)
    scale = np.sqrt(vae.noise_variance_) / X.std(0)
    at_floor = int(np.sum(scale <= 1.01 * vae.min_noise_))
    return vae.score_samples, {"at_floor": at_floor, "warnings": len(caught)}


def pca(X, groups, seed):
    largest = min(X.shape[1], len(X) // 2)
    grid = {"n_components": sizes(largest, 10)}
    return search(PCA(svd_solver="full"), grid, X, groups)


def factor_analysis(X, groups, seed):
    grid = {"n_components": sizes(min(64, X.shape[1] - 1), 7)}
    # The default tolerance is one of the sum over rows: hundreds of steps for nothing.
    model = FactorAnalysis(tol=1e-5 * len(X), random_state=seed)
    return search(model, grid, X, groups)


def gaussian_mixture(X, groups, seed):
    n, d = X.shape
    # Many rows need no large floor, and wide ones cannot afford many components.
    floors = [1e-6, 1e-3] if n >= 3000 else [1e-6, 1e-3, 1e-2, 1e-1, 3e-1]
    full = [k for k in (1, 2, 4, 8, 16, 32, 64) if k == 1 or (k * d <= 2000 and 5 * k <= n)]
    grid = [
        {"covariance_type": ["full"], "n_components": full, "reg_covar": floors},
        {"covariance_type": ["diag"], "n_components": [8, 32], "reg_covar": floors},
    ]
    return search(GaussianMixture(random_state=seed), grid, X, groups)


def kernel_density(X, groups, seed):
    grid = {"bandwidth": np.geomspace(0.04, 1.6, 17)}
    # One leaf holds all rows: by way of a tree the density is wrong, whatever the tolerance, where
    # the kernel is narrow beside the distances, as in many columns (scikit-learn issue 7492).
    return search(KernelDensity(leaf_size=len(X)), grid, X, groups)


def sizes(largest, n):
    return sorted({int(k) for k in np.geomspace(1, largest, n).round()})


def search(model, grid, X, groups):
    """Tune by five-fold cross-validation, identical rows in one fold."""
    folds = GroupKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settings that do not converge only lose
        best = GridSearchCV(model, grid, cv=folds).fit(X, groups=groups)
    params = {k: v if isinstance(v, str) else float(v) for k, v in best.best_params_.items()}
    return best.best_estimator_.score_samples, {"params": params}


def flow(X, groups, seed):
    """Fit a neural spline flow, or above 64 columns, where it takes too long, a MAF.

    A tenth of the rows is for early stopping.
    """
    torch.manual_seed(seed)
    d, x = X.shape[1], torch.from_numpy(X).float()
    rows = torch.randperm(len(x))
    n_valid = -(-len(x) // 10)
    valid, train = x[rows[:n_valid]], x[rows[n_valid:]]
    family = zuko.flows.NSF if d <= 64 else zuko.flows.MAF
    model = family(d, transforms=3, hidden_features=(64, 64), randperm=True)
    train_flow(model, train, valid, batch_size=int(np.clip(len(train) // 16, 16, 256)))

    @torch.no_grad()
    def log_density(X):
        parts = torch.from_numpy(X).float().split(1024)
        return torch.cat([model().log_prob(part) for part in parts]).double().numpy()

    return log_density, {"params": {"family": family.__name__}}


def train_flow(model, train, valid, batch_size, lr=2e-3, max_epochs=300, patience=20):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    # Halve the rate where the validation loss does not fall, stop where that does not help.
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=8)
    best_loss, best_epoch, best_state = np.inf, 0, copy.deepcopy(model.state_dict())
    for epoch in range(max_epochs):
        for rows in torch.randperm(len(train)).split(batch_size):
            optimizer.zero_grad()
            (-model().log_prob(train[rows]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
        with torch.no_grad():
            loss = -model().log_prob(valid).mean().item()
        schedule.step(loss)
        if loss < best_loss:
            best_loss, best_epoch, best_state = loss, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= patience or not np.isfinite(loss):
            break
    model.load_state_dict(best_state)


CLASSICAL = {
    "PCA": pca,
    "FactorAnalysis": factor_analysis,
    "GaussianMixture": gaussian_mixture,
    "KernelDensity": kernel_density,
}
MODELS = {"ours": ours, **CLASSICAL, "flow": flow}
MISSING = {"flow": "zuko is not installed"} if zuko is None else {}
