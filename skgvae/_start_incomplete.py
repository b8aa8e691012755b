"""Where does training start if cells are unknown? Classical models of the known cells."""

import numpy as np
import torch
from sklearn.utils import gen_batches

from ._proposals import linear_posterior
from ._start import factors_of_axes, mixture_of_rows, principal_axes, sample_rows
from .likelihood import MAX_ELEMENTS
from .nn.prior import GaussianComponents

MAX_ROWS = 2_000  # each of them has a covariance of its own
N_ITERATIONS = 50  # of the EM algorithm, at most
SMALLEST_GAIN = 1e-3  # nats a row, of an iteration


def factors_of_known(X, known, n_factors, floor, weight=None, isotropic=False):
    """Fit a factor analysis to the known cells of rows, by the EM algorithm.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; what an unknown cell holds is finite and does not matter.
    known : ndarray of bool, of shape (n_samples, n_features)
        Which cells are known.
    n_factors : int
        Number of factors; at most one less than there are features is used.
    floor : ndarray of shape (n_features,)
        Smallest noise variance.
    weight, isotropic
        As for :func:`factor_analysis`.

    Returns
    -------
    loadings, noise_variance, mean
        As for :func:`factor_analysis`.

    References
    ----------
    Ghahramani & Hinton, "The EM Algorithm for Mixtures of Factor Analyzers", 1996. Liu, Rubin &
    Wu, "Parameter Expansion to Accelerate EM: the PX-EM Algorithm", Biometrika 85(4), 1998.
    """
    rows = sample_rows(len(X), weight, MAX_ROWS)
    x, known = torch.from_numpy(X[rows]).double(), torch.from_numpy(known[rows])
    floor = torch.from_numpy(np.asarray(floor)).double()
    filled, is_known = x.where(known, 0.0).numpy(), known.double()
    if len(x) > x.shape[1]:  # of each pair of columns the rows that have both
        pairs = (is_known.T @ is_known).clamp(min=1).numpy()
        eigenvalues, axes = (a[..., ::-1] for a in np.linalg.eigh(filled.T @ filled / pairs))
    else:
        _, eigenvalues, axes = principal_axes(filled)
    start = factors_of_axes(np.maximum(eigenvalues, 1e-6), axes, n_factors, len(x), isotropic)
    loadings, noise = (torch.from_numpy(part.copy()) for part in start)
    mean, noise = torch.zeros_like(noise), noise.clamp(min=floor.clamp(min=1e-6))
    n_factors = loadings.shape[1]
    # As of one row more, of zeros: a column may have hardly any known cell.
    ridge = torch.eye(n_factors + 1, dtype=torch.float64)
    before = -np.inf
    for _ in range(N_ITERATIONS):
        found = _factor_posterior(x, known, loadings, noise, mean)
        score = float(found.log_evidence.mean())
        if score < before + SMALLEST_GAIN:
            break
        before, z = score, torch.nn.functional.pad(found.mean[0], (0, 1), value=1.0)
        square = torch.nn.functional.pad(torch.cholesky_inverse(found.root[0]), (0, 1, 0, 1))
        square = square + z[:, :, None] * z[:, None, :]
        squares = (is_known.T @ square.flatten(1)).unflatten(1, square.shape[1:])
        product = (is_known * x).T @ z
        slope = torch.linalg.solve(squares + ridge, product)
        # z need not have mean zero and covariance I meanwhile: that converges in fewer iterations.
        centre = z.mean(0)
        spread = (square.mean(0) - centre[:, None] * centre)[:-1, :-1] + 1e-9 * ridge[:-1, :-1]
        loadings, mean = slope[:, :-1] @ torch.linalg.cholesky(spread), slope @ centre
        explained = 2 * (slope * product).sum(1)
        explained = explained - torch.einsum("di,dij,dj->d", slope, squares, slope)
        n_known, residual = is_known.sum(0), (is_known * x.square()).sum(0) - explained
        if isotropic:
            n_known, residual = (a.sum().expand_as(a) for a in (n_known, residual))
        noise = (residual / n_known).where(n_known > 0, 1.0).clamp(min=floor)
    return loadings.numpy(), noise.numpy(), mean.numpy()


def mixture_of_known(X, known, n_latents, floor, weight=None, isotropic=False, seed=0, **params):
    """Fit a mixture of Gaussians to the known cells of rows.

    Its form is that of a mixture for complete rows, found in a table in which unknown cells are
    draws from a factor analysis; its weights, means and covariances are then fitted to the known
    cells by the EM algorithm.

    Parameters
    ----------
    X, known
        As for :func:`factors_of_known`.
    n_latents
        As for :func:`~skgvae._start.mixture_of_rows`.
    floor, weight, isotropic
        As for :func:`factors_of_known`.
    seed, **params
        Further parameters of that.

    Returns
    -------
    loadings, noise_variance, mean, weights, means, covariances, kind
        As from :func:`~skgvae._start.mixture_of_columns`.
    """
    own = {"weight": weight, "isotropic": isotropic}
    factors = factors_of_known(X, known, n_latents, floor, **own)
    filled = _completed(X, known, *factors, seed)
    *model, kind = mixture_of_rows(filled, n_latents, floor, seed=seed, **own, **params)
    return *_fitted_to_known(X, known, *model, weight), kind


def _factor_posterior(x, known, loadings, noise, mean):
    # Of factors that are N(0, I).
    standard = GaussianComponents.standard(loadings)
    return linear_posterior(x, known, standard, mean[None], loadings[None], 1 / noise[None])


def _completed(X, known, loadings, noise_variance, mean, seed=0):
    """Return rows with a draw in each unknown cell, from a factor analysis given the known cells.

    Parameters
    ----------
    X, known, loadings, noise_variance, mean
        As for, and from, :func:`factors_of_known`.
    seed : int
        Of the draws.
    """
    rng, filled = np.random.default_rng(seed), X.copy()
    loadings, noise, mean = map(torch.from_numpy, (loadings, noise_variance, mean))
    for rows in gen_batches(len(X), MAX_ROWS):
        x, own = torch.from_numpy(X[rows]).double(), torch.from_numpy(known[rows])
        found = _factor_posterior(x, own, loadings, noise, mean)
        eps = torch.from_numpy(rng.standard_normal(found.mean[0].shape))
        step = torch.linalg.solve_triangular(found.root[0].mT, eps[..., None], upper=True)
        drawn = (found.mean[0] + step[..., 0]) @ loadings.T + mean
        drawn = drawn + noise.sqrt() * torch.from_numpy(rng.standard_normal(x.shape))
        filled[rows] = np.where(known[rows], X[rows], drawn.numpy())
    return filled


def _fitted_to_known(
    X, known, loadings, noise_variance, mean, weights, means, covariances, weight=None
):
    """Return a mixture of factor analysers whose factors are fitted to the known cells of rows.

    Loadings and noise are kept; the EM algorithm moves weights, means and covariances of z.

    Parameters
    ----------
    X, known
        As for :func:`factors_of_known`.
    loadings, noise_variance, mean, weights, means, covariances
        As from :func:`mixture_of_columns`.
    weight
        As for :func:`factors_of_known`.
    """
    rows = sample_rows(len(X), weight, MAX_ROWS)
    x, known = torch.from_numpy(X[rows]).double(), torch.from_numpy(known[rows])
    parts = (loadings, noise_variance, mean, weights, means, covariances)
    loadings, noise, mean, weights, means, covariances = (
        torch.from_numpy(np.asarray(part)).double() for part in parts
    )
    rest = loadings.shape[1] - means.shape[1]  # of z that is standard normal
    means = torch.nn.functional.pad(means, (0, rest))
    identity = torch.eye(rest, dtype=torch.float64)
    covariances = torch.stack([torch.block_diag(c, identity) for c in covariances])
    n_components, before, best = len(weights), -np.inf, None
    slope, precision = (a.expand(n_components, *a.shape) for a in (loadings, 1 / noise))
    n_at_once = max(1, MAX_ELEMENTS // covariances.numel())
    for _ in range(N_ITERATIONS):
        factors = torch.linalg.inv(torch.linalg.cholesky(covariances))
        components = GaussianComponents(weights.log(), means, factors)
        loc = mean + means @ loadings.T
        # As if each component had a row more, of what it is.
        score, totals, moved = 0.0, torch.ones_like(weights), torch.zeros_like(means)
        squares = covariances.clone()
        for own, own_known in zip(x.split(n_at_once), known.split(n_at_once), strict=True):
            found = linear_posterior(own, own_known, components, loc, slope, precision)
            score += float(found.log_evidence.logsumexp(0).sum()) / len(x)
            share = found.log_evidence.softmax(0)[..., None]  # (C, n, 1)
            step = found.mean - means[:, None]
            totals, moved = totals + share[..., 0].sum(1), moved + (share * step).sum(1)
            within = torch.cholesky_inverse(found.root) + step[..., None] * step[..., None, :]
            squares += (share[..., None] * within).sum(1)
        if not score > before + SMALLEST_GAIN:
            break
        before, best = score, (weights, means, covariances)
        moved = moved / totals[:, None]
        weights, means = totals / totals.sum(), means + moved
        covariances = squares / totals[:, None, None] - moved[..., None] * moved[..., None, :]
    return loadings.numpy(), noise.numpy(), mean.numpy(), *(part.numpy() for part in best)
