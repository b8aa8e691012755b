"""Where training starts: classical models of the training rows."""

import numpy as np
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.utils import gen_batches

from ._threads import quiet_classical_fit

MAX_ROWS = 200_000  # of more, every second or third is enough; they are copied
MAX_MIXTURE_ROWS = 5_000
# Numbers of components that are tried, for so many beyond the best.
NUMBERS_OF_COMPONENTS = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64
MAX_WORSE = 2
# On average: of fewer than 5 BIC would make a component each, of fewer than twice the columns
# a covariance is uncertain.
MIN_ROWS_PER_COMPONENT = 5
MIN_ROWS_PER_COLUMN = 2
# Largest share of the decoder's noise in the average covariance of the components. The bound
# is the nearer to the log-likelihood, the smaller it is; training goes the better, the larger.
NOISE_SHARE = 0.5
# What a component's variance without the noise is at least, in units of the noise.
MIN_SIGNAL = 0.1


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
    mean, eigenvalues, eigenvectors = principal_axes(X, weight)
    loadings, noise = factors_of_axes(eigenvalues, eigenvectors, n_factors, len(X), isotropic)
    return loadings, noise, mean


def factors_of_axes(eigenvalues, eigenvectors, n_factors, n_rows, isotropic):
    """Return loadings and noise variance of a factor analysis, given principal axes of the rows.

    Parameters
    ----------
    eigenvalues, eigenvectors : ndarray of shape (n_axes,) and (n_features, n_axes)
        Of the covariance, largest first.
    n_factors
        As for :func:`factor_analysis`.
    n_rows : int
        Number of rows.
    isotropic
        As for :func:`factor_analysis`.
    """
    n_features = len(eigenvectors)
    rank = int(np.sum(eigenvalues > 1e-10 * max(eigenvalues[0], 1e-10)))
    if rank == 0:  # nothing varies
        return np.zeros((n_features, 1)), np.zeros(n_features)
    n_factors = min(n_factors, max(1, rank - 1))
    if isotropic:
        eigenvalues = np.maximum(eigenvalues, 0) * n_rows / (n_rows - 1)
        n_others = n_features - n_factors
        noise = eigenvalues[n_factors:].sum() / n_others if n_others else 0.0
        loadings = eigenvectors[:, :n_factors] * np.sqrt(eigenvalues[:n_factors] - noise)
        return loadings, np.full(n_features, noise)

    root = np.sqrt(rank * eigenvalues[:rank, None]) * eigenvectors[:, :rank].T
    rows = np.concatenate([root, -root])  # with mean zero and the covariance of X
    # scikit-learn's tolerance is in nats for all rows: keep it the same for a row.
    tol = max(1e-2 / n_rows, 1e-6) * len(rows)
    svd_method = "lapack" if rank < 200 else "randomized"
    model = FactorAnalysis(n_factors, tol=tol, max_iter=300, svd_method=svd_method)
    with quiet_classical_fit():
        model.fit(rows)
    return model.components_.T, model.noise_variance_


def principal_axes(X, weight=None):
    """Return the mean, and eigenvalues and eigenvectors of the covariance, largest first.

    All of them, or of fewer rows than columns those that are not zero, without a matrix of
    columns × columns.
    """
    if len(X) > X.shape[1]:
        mean, covariance = _mean_and_covariance(X, weight)
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        return mean, eigenvalues[::-1], eigenvectors[:, ::-1]
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    share = weight / weight.sum()
    mean = share @ X.astype(np.float64)
    _, root, axes = np.linalg.svd(np.sqrt(share)[:, None] * (X - mean), full_matrices=False)
    return mean, root**2, axes.T


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


COVARIANCE_TYPES = "full", "tied", "diag"


def gaussian_mixture(X, floor, n_components=None, weight=None, seed=0, kinds=COVARIANCE_TYPES):
    """Fit a mixture of Gaussians to the rows, or to a sample of them.

    The Bayesian information criterion chooses whether covariances are full, the same for all
    components, or diagonal, and the number of components: of each kind until more are worse.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    floor : ndarray of shape (n_features,)
        Noise variance that every component contains.
    n_components : int, optional
        Number of components; None tries up to 64, but no more than one for five rows, and for
        twice as many rows as columns.
    weight : ndarray of shape (n_samples,), optional
        Row weights: the sample has rows in proportion to them.
    seed : int
        Seed of the EM algorithm's start.
    kinds : sequence of {"full", "tied", "diag"}
        Kinds of covariances that are tried.

    Returns
    -------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    covariances : ndarray of shape (n_components, n_features, n_features)
    kind : str
        The best kind.
    """
    n_rows = _effective_number(weight, len(X))
    X = X[sample_rows(len(X), weight, MAX_MIXTURE_ROWS)].astype(np.float64)
    n_rows = min(n_rows, len(X))
    if n_components is None:
        n_needed = max(MIN_ROWS_PER_COMPONENT, MIN_ROWS_PER_COLUMN * X.shape[1])
        numbers = [n for n in NUMBERS_OF_COMPONENTS if n == 1 or n * n_needed <= n_rows]
    else:
        numbers = [min(n_components, len(X))]
    fits = []
    for covariance_type in kinds:
        best, n_worse = np.inf, 0
        for n in numbers:
            fits.append(_fit_mixture(X, n, covariance_type, floor, seed, n_rows))
            n_worse = n_worse + 1 if fits[-1][0] >= best else 0
            best = min(best, fits[-1][0])
            if n_worse == MAX_WORSE:
                break
    return min(fits, key=lambda fit: fit[0])[1:]


def mixture_of_columns(X, floor, isotropic=False, **params):
    """Fit a mixture of Gaussians and write it as a model with as many latents as features.

    Its covariances are split into a noise variance for each feature, the same for all
    components, and the rest, that of z. A component that holds less noise is enlarged.

    Parameters
    ----------
    X, floor
        As for :func:`gaussian_mixture`.
    isotropic : bool
        One noise variance for all features.
    **params
        Further parameters of :func:`gaussian_mixture`.

    Returns
    -------
    loadings, noise_variance, mean
        As for :func:`factor_analysis`.
    weights, means, covariances, kind
        As for :func:`gaussian_mixture`, of z.
    """
    weights, means, covariances, kind = gaussian_mixture(X, floor, **params)
    average = np.einsum("c,cij->ij", weights, covariances)
    noise = np.maximum(floor, _noise_within(average, isotropic))
    root = np.sqrt(noise)
    covariances = (_enlarged(covariances, noise) - np.diag(noise)) / (root[:, None] * root)
    # Any axes will do for z: in these the precision of z given x is diagonal on average, as
    # that of the encoder.
    _, axes = np.linalg.eigh(np.einsum("c,cij->ij", weights, np.linalg.inv(covariances)))
    covariances = axes.T @ covariances @ axes
    centre = weights @ means
    means = (means - centre) / root @ axes
    scale = np.sqrt(weights @ (np.diagonal(covariances, axis1=1, axis2=2) + means**2))
    loadings = root[:, None] * axes * scale
    covariances = covariances / np.outer(scale, scale)
    return loadings, noise, centre, weights, means / scale, covariances, kind


def mixture_of_factors(X, n_factors, floor, isotropic=False, weight=None, **params):
    """Fit a factor analysis, and a mixture of Gaussians to its scores.

    Rotated such that the posterior is diagonal, and with a = g / (1 + g) for the signal to
    noise ratio g of a factor, its score given z is N(a z, a (1 - a)).

    Parameters
    ----------
    X, n_factors
        As for :func:`factor_analysis`.
    floor : ndarray of shape (n_features,)
        Smallest noise variance.
    isotropic, weight
        As for :func:`factor_analysis`.
    **params
        Further parameters of :func:`gaussian_mixture`.

    Returns
    -------
    loadings, noise_variance, mean, weights, means, covariances, kind
        As from :func:`mixture_of_columns`. The mixture may leave out weak factors, the last.
    """
    loadings, noise, mean = factor_analysis(X, n_factors, weight, isotropic)
    noise = np.maximum(floor, noise)
    signal, rotation = np.linalg.eigh(loadings.T @ (loadings / noise[:, None]))
    loadings, signal = loadings @ rotation[:, ::-1], signal[::-1]
    # Scores of weaker factors say nothing about the distribution of the factor.
    n_strong = max(1, np.sum(signal > MIN_SIGNAL))
    signal = np.maximum(signal[:n_strong], MIN_SIGNAL)
    gain = loadings[:, :n_strong] / noise[:, None] / (1 + signal)
    scores = X @ gain.astype(X.dtype) - mean @ gain
    a = signal / (1 + signal)
    variance = a / (1 + signal)  # a (1 - a), which would round to zero for a strong signal
    weights, means, covariances, kind = gaussian_mixture(scores, variance, weight=weight, **params)
    covariances = (covariances - np.diag(variance)) / np.outer(a, a)
    return loadings, noise, mean, weights, means / a, covariances, kind


def mixture_of_rows(X, n_latents, floor, **params):
    """Fit a mixture of Gaussians and write it as a model with so many latents.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    n_latents : int
        With fewer than there are features it is :func:`mixture_of_factors`, else
        :func:`mixture_of_columns`.
    floor, **params
        As for these.
    """
    if n_latents < X.shape[1]:
        return mixture_of_factors(X, n_latents, floor, **params)
    return mixture_of_columns(X, floor, **params)


def _noise_within(covariance, isotropic):
    # A share of what the other features leave of a feature's variance: a nearly singular pair
    # of features then costs the others nothing.
    precision = np.linalg.inv(covariance)
    rest = 1 / np.diagonal(precision)
    if isotropic:
        rest = np.full_like(rest, rest.min())
    root = np.sqrt(rest)
    return NOISE_SHARE * rest / np.linalg.eigvalsh(root[:, None] * precision * root).max()


def _enlarged(covariances, noise_variance):
    # Of the covariances that hold the noise (all values >= 1) those nearest in likelihood; a
    # little more, so that what is left without the noise is not singular.
    root = np.sqrt(noise_variance)
    values, vectors = np.linalg.eigh(covariances / (root[:, None] * root))
    vectors = root[:, None] * vectors
    values = np.maximum(values, 1 + MIN_SIGNAL)
    return (vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1)


def _fit_mixture(X, n_components, covariance_type, floor, seed, n_rows):
    # Its BIC for so many independent rows, weights, means and covariances, with the floor.
    model = GaussianMixture(
        n_components,
        covariance_type=covariance_type,
        reg_covar=1e-6 * max(X.var(0).max(), 1e-6),  # scikit-learn's is for columns of variance 1
        random_state=seed,
    )
    with quiet_classical_fit():
        model.fit(X)
    d, c = X.shape[1], n_components
    n_parameters = {"full": c * d * (d + 1) / 2, "tied": d * (d + 1) / 2, "diag": c * d}
    if covariance_type == "full":
        covariances = model.covariances_
    elif covariance_type == "tied":
        covariances = np.tile(model.covariances_, (c, 1, 1))
    else:
        covariances = model.covariances_[:, None, :] * np.eye(d)
    covariances = _enlarged(covariances, floor)
    model.set_params(covariance_type="full")
    model.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).transpose(0, 2, 1)
    penalty = np.log(n_rows) * (n_parameters[covariance_type] + c * d + c - 1)
    bic = penalty - 2 * n_rows * model.score(X)
    return bic, model.weights_, model.means_, covariances, covariance_type


def _effective_number(weight, n):
    # Of independent rows (Kish 1965): one row of weight ten says less than ten rows.
    return n if weight is None else weight.sum() ** 2 / np.square(weight).sum()


def sample_rows(n_rows, weight, n_most):
    """Return indices of rows at equal distances of the summed weights: all if equal and few."""
    n = min(n_rows, n_most)
    total = np.arange(1, n_rows + 1) if weight is None else np.cumsum(weight, dtype=np.float64)
    return np.searchsorted(total, (np.arange(n) + 0.5) / n * total[-1])
