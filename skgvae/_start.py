"""Where training starts: classical models of the training rows."""

import warnings

import numpy as np
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches


def factor_analysis(X, n_factors, weight=None, isotropic=False):
    """Fit a factor analysis, or probabilistic principal components.

    Both depend on the rows only through their mean and covariance. scikit-learn's
    FactorAnalysis is given the smallest table that has this covariance, so that each of its
    iterations costs the same for a hundred and for a million rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Training rows.
    n_factors : int
        Number of factors; at most one less than the rank of the data is used. With as many
        factors as columns the first iteration of FactorAnalysis is its last, far from the
        optimum, and one factor less already describes every covariance.
    weight : ndarray of shape (n_samples,), optional
        Row weights.
    isotropic : bool
        One noise variance for all features: the model of scikit-learn's PCA, whose
        covariances divide by n - 1.

    Returns
    -------
    loadings : ndarray of shape (n_features, n_factors_used)
    noise_variance : ndarray of shape (n_features,)
    mean : ndarray of shape (n_features,)
    """
    mean, covariance = _mean_and_covariance(X, weight)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    rank = int(np.sum(eigenvalues > 1e-10 * max(eigenvalues[0], 1e-10)))
    if rank == 0:  # nothing varies
        return np.zeros((len(mean), 1)), np.zeros(len(mean)), mean
    n_factors = min(n_factors, max(1, rank - 1))
    if isotropic:
        eigenvalues = np.maximum(eigenvalues, 0) * len(X) / (len(X) - 1)
        noise = eigenvalues[n_factors:].mean() if n_factors < len(mean) else 0.0
        loadings = eigenvectors[:, :n_factors] * np.sqrt(eigenvalues[:n_factors] - noise)
        return loadings, np.full_like(mean, noise), mean

    root = np.sqrt(rank * eigenvalues[:rank, None]) * eigenvectors[:, :rank].T
    rows = np.concatenate([root, -root])  # with mean zero and the covariance of X
    # scikit-learn's tolerance is in nats for all rows: keep it the same for a row.
    tol = max(1e-2 / len(X), 1e-6) * len(rows)
    svd_method = "lapack" if rank < 200 else "randomized"
    model = FactorAnalysis(n_factors, tol=tol, max_iter=300, svd_method=svd_method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return model.components_.T, model.noise_variance_, mean


def _mean_and_covariance(X, weight):
    # In float64 and by chunks: a float64 copy of a large table would double its memory.
    n = len(X) if weight is None else weight.sum(dtype=np.float64)
    total = np.zeros(X.shape[1])
    for rows in gen_batches(len(X), 65536):
        total += X[rows].sum(0, dtype=np.float64) if weight is None else weight[rows] @ X[rows]
    mean = total / n
    covariance = np.zeros((X.shape[1], X.shape[1]))
    for rows in gen_batches(len(X), 65536):
        centred = X[rows] - mean
        covariance += centred.T @ (centred if weight is None else centred * weight[rows, None])
    return mean, covariance / n
