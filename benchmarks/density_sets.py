"""The sets of density.py: which they are, and how rows and columns are prepared."""

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.model_selection import GroupShuffleSplit

BUNDLED = {
    "breast_cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
}

# Fixed before any result of this benchmark was seen. Sets on which prototypes of the package had
# been measured, and the views of pair_mfeat, which show the same objects, can only be for tuning;
# of the others, in alphabetical order, every second one is held out, from the first on.
HELD_OUT = (
    "ad_annthyroid",
    "ad_cardio",
    "ad_pima",
    "ad_vowels",
    "den_oil_flow",
    "img_frey",
    "pair_glove_analogy.v1",
    "reg_elevators",
    "reg_parkinsons_tele",
    "reg_sml",
)
TUNING = (
    "ad_breastw",
    "ad_glass",
    "ad_satellite",
    "breast_cancer",
    "den_natural_patches",
    "den_parkinsons_voice",
    "diabetes",
    "digits",
    "imp_banknote",
    "imp_wine_white",
    "imp_yeast",
    "iris",
    "pair_mfeat.v2",
    "pair_mfeat.v3",
    "pair_mfeat.v6",
    "pair_wiki.v2",
    "reg_kin8nm",
    "reg_protein",
    "reg_wine_red",
    "wine",
)
# Left out, because little is left of them without point masses: ad_ionosphere, ad_mammography,
# pair_wiki.v1, reg_concrete; because they are grids of an experiment's design: reg_airfoil,
# reg_energy, reg_yacht; because they are the same data as another set: ad_thyroid, ad_wbc,
# ad_yeast, ad_optdigits.

TIES = 0.5  # distinct values as a share of the rows below which a column is gridded
POINT_MASS = 0.05  # smallest share of rows that makes a value a point mass ...
SPIKE = 4.0  # ... if its density after dequantisation is ten times that of a normal's peak
DEPENDENT = 2e-3  # relative residual below which a column is a function of those before it


def load(folder, name):
    """Return the raw rows; ``name`` is a file's, with ``.v2`` for a view, or scikit-learn's."""
    if name in BUNDLED:
        return BUNDLED[name]().data.astype(float)
    file, _, view = name.partition(".")
    return np.load(folder / f"{file}.npz")[view or "X"].astype(float)


def prepare(X, max_rows, seed=0):
    """Return prepared rows, the group of each (identical rows), and what was done."""
    rng = np.random.default_rng(seed)
    n_raw, X = len(X), X[rng.permutation(len(X))[:max_rows]]
    groups = np.unique(X, axis=0, return_inverse=True)[1].ravel()
    varying = X[:, np.ptp(X, axis=0) > 0]
    steps = np.array([grid_step(column) for column in varying.T])
    spiky = np.array([has_point_mass(*pair) for pair in zip(varying.T, steps, strict=True)])
    noisy = varying + steps * (rng.random(varying.shape) - 0.5)
    kept = np.flatnonzero(~spiky)
    kept = kept[~dependent(noisy[:, kept])]
    about = {
        "raw_rows": n_raw,
        "rows": len(X),
        "columns": len(kept),
        "dropped": X.shape[1] - len(kept),
        "dequantised": int(np.count_nonzero(steps[kept])),
    }
    return noisy[:, kept], groups, about


def grid_step(column):
    """Return the spacing of a column's grid, 0 for a continuous column.

    Integers have a grid of one unit, or wider. Other columns with many ties were rounded, to
    the most frequent gap between neighbouring values.
    """
    values, span = np.unique(column), np.ptp(column)
    if np.array_equal(values, np.round(values)):
        return np.diff(values).min()
    values = np.unique(np.round((column - column.min()) / span, 7))  # float32 is no grid
    if len(values) > TIES * len(column):
        return 0.0
    gaps, counts = np.unique(np.round(np.diff(values), 6), return_counts=True)
    counts[gaps == 0] = 0
    return gaps[np.argmax(counts)] * span


def has_point_mass(column, step):
    """Return whether noise as wide as the grid leaves a spike: no density is right there.

    The log density of such a column has no upper limit, and a comparison on it would only
    tell whose noise floor is lower.
    """
    share = np.unique(column, return_counts=True)[1].max() / len(column)
    return share >= POINT_MASS and share * column.std() > SPIKE * step


def dependent(X):
    """Return which columns are linear functions of those before them."""
    n, d = X.shape
    if n <= d:
        return np.zeros(d, bool)
    standard = (X - X.mean(0)) / X.std(0)
    residuals = np.abs(np.diag(np.linalg.qr(standard, mode="r"))) / np.sqrt(n)
    return residuals < DEPENDENT


def split(X, groups, k):
    """Return training and test rows in training units, and the groups of the training rows."""
    splitter = GroupShuffleSplit(1, test_size=0.25, random_state=k)
    train, test = next(splitter.split(X, groups=groups))
    offset, scale = X[train].mean(0), X[train].std(0)
    scale[scale == 0] = 1.0
    standard = (X - offset) / scale
    return standard[train], standard[test], groups[train]
