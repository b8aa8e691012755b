"""Which rows does a model not see? One partition for all models."""

import heapq

import numpy as np


def make_folds(n_rows, n_folds, seed, groups=None, strata=None, max_rows=None):
    """Return the fold of each row: whole groups, folds of equal size, each stratum in all.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    n_folds : int
        Number of folds.
    seed : int
        Of the order in which rows are dealt out.
    groups : ndarray of shape (n_rows,), optional
        Numbers from 0 on; each row is its own group by default.
    strata : ndarray of shape (n_rows,), optional
        Numbers, such as classes; the largest are dealt out first. That of a group is the one of
        its first row.
    max_rows : int, optional
        Rows of a fold, at most but for a group; those beyond are in none.

    Returns
    -------
    ndarray of int, of shape (n_rows,)
        -1 for rows in none.
    """
    groups = np.arange(n_rows) if groups is None else groups
    _, first, groups, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    rng = np.random.default_rng(seed)
    strata = np.zeros(len(first)) if strata is None else strata[first]
    order = np.lexsort([rng.permutation(len(first)), -sizes, -strata])
    folds = np.empty(len(first), int)
    if len(first) == n_rows:
        folds[order] = np.arange(n_rows) % n_folds
    else:  # each to the fold that has least so far
        filled = [(0, fold) for fold in range(n_folds)]
        for group in order:
            size, fold = heapq.heappop(filled)
            folds[group] = fold
            heapq.heappush(filled, (size + int(sizes[group]), fold))
    if max_rows is not None:
        for fold in range(n_folds):
            own = rng.permutation(np.flatnonzero(folds == fold))
            before = np.cumsum(sizes[own]) - sizes[own]
            folds[own[before >= max_rows]] = -1
    return folds[groups]
