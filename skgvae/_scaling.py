"""Units and order of latents: from the user's to those of a module and back."""

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

_ROWS = 65536
# The square of a larger value, over a small variance, would overflow in float32.
_LARGEST = 1e15
# Standard deviations from which on the gradient of the loss may overflow in float32.
FARTHEST = 1e8
FAR = 1e4  # from which on little is learned
# Less would make the column that has nothing to tell the hardest to fit.
_CONSTANT_NOISE = 0.01
# Values that differ by less, as a share of their column's range, differ by rounding alone.
_SAME = 1e-9


class Standardizer:
    """Columns with mean zero and standard deviation one; constant columns are zero.

    Columns that are constant but for rounding have the larger of one and their spread as scale.
    Standardised values beyond ±10¹⁵ are moved there: what is made of them stays finite. NaN stays
    NaN, and tells nothing.

    Parameters
    ----------
    offset, scale : ndarray of shape (n_features,)
        ``standardised = (X - offset) / scale``.
    limits : tuple of two ndarrays of shape (n_features,), optional
        Standardised values outside are moved there.
    is_constant : ndarray of bool, of shape (n_features,), optional
        Columns that were constant in the rows from which this was learned.
    """

    def __init__(self, offset, scale, limits=None, is_constant=None):
        self.offset = offset  # both float64, and so is what comes back in the user's units
        self.scale = scale
        self.limits = limits
        self.is_constant = np.zeros(len(offset), bool) if is_constant is None else is_constant

    @classmethod
    def fit(cls, X, weight=None):
        """Learn offset and scale from rows, with weights where given."""
        offset, scale, variance = _moments(X, weight)
        # Not the scale: scikit-learn takes a column whose variance overflows for a constant.
        if not (np.isfinite(offset).all() and np.isfinite(variance).all()):
            raise ValueError("The values are too large: a column's variance is not finite.")
        taken = (scale == 1) & (variance != 1)
        if taken.any():
            # For constants. The mean of large ones is off by more than their scale of one.
            columns = X[:, taken]
            origin = np.nanmin(columns, 0).astype(np.float64)
            mean, _, variance = _moments(columns, weight, origin)
            offset[taken] = origin + mean
            scale[taken] = np.maximum(1, np.sqrt(variance))
        return cls(offset, scale, is_constant=taken)

    def with_varying(self, X, weight=None):
        """Return this scaling with units for columns that are no longer constant in X.

        Also a mask of these columns. A column's constant counts as one row more.
        """
        new = self.is_constant.copy()
        if not new.any():
            return self, new
        distance = np.fmax.reduce(np.abs(X - self.offset), 0, initial=0.0)
        new &= distance > _SAME * np.maximum(1, np.abs(self.offset))
        if not new.any():
            return self, new
        rows = np.vstack([self.offset[new], X[:, new]])
        learned = Standardizer.fit(rows, None if weight is None else np.r_[1.0, weight])
        updated = Standardizer(self.offset.copy(), self.scale.copy(), self.limits)
        updated.offset[new], updated.scale[new] = learned.offset, learned.scale
        updated.is_constant = self.is_constant.copy()
        updated.is_constant[new] = learned.is_constant  # constant but for rounding
        if self.limits is not None:  # which were those of the constant
            low, high = (limit.copy() for limit in self.limits)
            low[new], high[new] = np.inf, -np.inf
            updated.limits = low, high
        return updated, new

    def limited_to(self, X):
        """Return this scaling with limits: the range of X, widened by itself on either side.

        A network says nothing sensible about a row far outside what it was trained on, and
        the further, the louder.
        """
        known = np.isfinite(X).any(0)  # a column of a later table may be unknown altogether
        low, high = (f.reduce(X, 0) for f in (np.fmin, np.fmax))
        low, high = (self._standardise(np.where(known, x, self.offset)) for x in (low, high))
        low, high = low - (high - low), high + (high - low)
        if self.limits is not None:
            low, high = np.minimum(low, self.limits[0]), np.maximum(high, self.limits[1])
        return Standardizer(self.offset, self.scale, (low, high), self.is_constant)

    def farthest(self, X):
        """Return the largest magnitude of each standardised column, without limits."""
        largest = np.zeros(X.shape[1])
        with np.errstate(over="ignore"):
            for rows in _by_rows(X):
                part = np.abs(X[rows] - self.offset) / self.scale
                largest = np.maximum(largest, np.nanmax(part, axis=0, initial=0.0))
        return largest

    def forward(self, X, dtype=None):
        """Return standardised rows; the arithmetic is float64 whatever the dtype."""
        out = np.empty(X.shape, dtype=dtype or X.dtype)
        for rows in _by_rows(X):
            standardised = self._standardise(X[rows])
            out[rows] = standardised if self.limits is None else standardised.clip(*self.limits)
        return out

    def _standardise(self, X):
        with np.errstate(over="ignore"):
            return ((X - self.offset) / self.scale).clip(-_LARGEST, _LARGEST)

    def inverse(self, X):
        """Return rows in the user's units."""
        return X * self.scale + self.offset

    def inverse_scale(self, X):
        """Return standard deviations in the user's units."""
        return X * self.scale

    def inverse_variance(self, X):
        """Return variances in the user's squared units."""
        return X * self.scale**2

    def log_abs_det(self, X):
        """Sum of log scale: what a log density in the user's units is smaller by.

        A number; of rows with unknown cells an array with the sum over the known ones of each.
        """
        log_scale = np.log(self.scale)
        if not rows_with_holes(X).any():
            return float(log_scale.sum())
        return np.concatenate([~np.isnan(X[rows]) @ log_scale for rows in _by_rows(X)])


class Latents:
    """Order and signs of latents that another training would find too.

    The latent with the largest KL is the first. The column that goes with it most, or nearly so,
    goes up with it.

    Parameters
    ----------
    order : ndarray of int, of shape (n_components,)
        Places in the module.
    signs : ndarray of shape (n_components,)
        Plus or minus one.
    """

    def __init__(self, order, signs):
        self.order = order
        self.signs = signs

    @classmethod
    def of(cls, kl, loc, v1):
        """Learn them from the KL of each latent, from posterior means and rows."""
        order = np.argsort(-kl, kind="stable")
        covariance = (loc - loc.mean(0)).T.astype(np.float64) @ (v1 - v1.mean(0))
        size = np.abs(covariance)
        # The first of those that are nearly the strongest: which of two is may be chance.
        column = (size >= 0.8 * size.max(1, keepdims=True)).argmax(1)
        strongest = covariance[np.arange(len(kl)), column]
        return cls(order, np.where(strongest < 0, -1.0, 1.0)[order])

    def from_module(self, z):
        """Return z as the user sees it, given a tensor of shape (*, n_components)."""
        order = torch.tensor(self.order, device=z.device)
        return z[..., order] * torch.tensor(self.signs, dtype=z.dtype, device=z.device)

    def to_module(self, z):
        """Return z as the module sees it, given an array of shape (n_samples, n_components)."""
        own = np.empty_like(z)
        own[:, self.order] = z * self.signs.astype(z.dtype)
        return own


def _moments(X, weight, origin=0.0):
    # Mean, scale and variance of each column, in float64.
    if any(np.isnan(X[rows]).any() for rows in _by_rows(X)):
        columns, known = X - origin, ~np.isnan(X)  # each of its known cells
        parts = []
        for column, own in zip(columns.T, known.T, strict=True):
            own_weight = None if weight is None else weight[own]
            parts.append(_moments(column[own, None], own_weight))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    scaler = StandardScaler()
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
        for rows in _by_rows(X):
            part = None if weight is None else weight[rows]
            scaler.partial_fit(X[rows] - origin, sample_weight=part)
    return tuple(a.astype(np.float64) for a in (scaler.mean_, scaler.scale_, scaler.var_))


def rows_with_holes(X):
    """Return which rows have unknown cells."""
    return np.concatenate([np.isnan(X[rows]).any(1) for rows in _by_rows(X)])


def _by_rows(X):
    return gen_batches(len(X), _ROWS)  # whole, there would be float64 copies of X


def grid_noise(X, scale, floor):
    """Return a noise floor for each column that respects the grid of its values.

    A density can grow without limit on a column of few distinct values, by spikes on them.
    A value rounded to a grid of spacing h carries noise of standard deviation h / √12. That is
    the floor, with the most frequent gap between values as h, and at most the column's own
    standard deviation, where each value stands in two rows or more on average; from there it
    falls linearly to nothing where all values differ. The floor of a constant column is at
    least 0.01.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows in the user's units.
    scale : ndarray of shape (n_features,)
        Unit of the result for each column.
    floor : float
        Smallest noise, in that unit.

    Returns
    -------
    ndarray of shape (n_features,)
        Floors in that unit.
    """
    X = X[:: max(1, len(X) // 20_000)]  # a sample tells the grid
    noise = np.full(X.shape[1], floor)
    for j, column in enumerate(X.T):
        column = column[~np.isnan(column)]
        values, spacing = distinct_values(column) if len(column) else ((), 0.0)
        if len(values) <= 1:
            noise[j] = max(floor, _CONSTANT_NOISE)
            continue
        repetition = min(len(column) / len(values) - 1, 1)
        spikes = min(spacing / np.sqrt(12), column.std(dtype=np.float64)) / scale[j]
        noise[j] = max(floor, repetition * spikes)
    return noise


def distinct_values(column):
    """Return the values of a column, sorted, and the most frequent gap between them.

    Values that differ by less than 1e-9 of the column's range are one.
    """
    values = np.unique(column.astype(np.float64))
    with np.errstate(over="ignore", under="ignore"):
        span = values[-1] - values[0]
        gaps = np.diff(values) / max(span, np.finfo(np.float64).tiny)
    is_new = gaps > _SAME
    values, gaps = values[np.r_[True, is_new]], gaps[is_new]
    if len(gaps) == 0:
        return values, 0.0
    _, first, counts = np.unique(np.round(gaps / _SAME), return_index=True, return_counts=True)
    with np.errstate(under="ignore"):
        return values, gaps[first[np.argmax(counts)]] * span
