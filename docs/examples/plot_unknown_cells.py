"""
A table with holes
==================

NaN means "unknown" to ``GaussianVAE``. It is fitted to a table with holes as it is, and then says
what the unknown cells may be. When is a draw of a cell better than its mean, and how large are the
errors beside other imputers?
"""

# %%
# Two half-moons with 30 % holes
# ------------------------------
# Half of the training rows lack a coordinate or both. The model sees all rows.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

rng = np.random.default_rng(0)
moons, _ = make_moons(1400, noise=0.06, random_state=0)
train, test = moons[:800], moons[800:]
holes = np.where(rng.uniform(size=train.shape) < 0.3, np.nan, train)
vae = GaussianVAE(random_state=0).fit(holes)
n_known = np.sum(~np.isnan(holes), axis=1)
print(f"rows with 0, 1, 2 known cells      {np.bincount(n_known)}")

# %%
# Now only the first coordinate of new rows is given. Most first coordinates have two answers: one
# on each moon. A draw chooses one of them, the mean lies between them.
given = test.copy()
given[:, 1] = np.nan
(draws,) = vae.impute(given, n_imputations=1, random_state=0)
means = vae.impute(given)


def distance(rows):
    """Return the mean distance to the nearest of 20 000 rows without noise."""
    moon, _ = make_moons(20_000)
    return np.sqrt(((rows[:, None] - moon[None, ::20]) ** 2).sum(-1)).min(1).mean()


for name, rows in (("new rows", test), ("draws", draws), ("means", means)):
    print(f"distance from the moons, {name:<10}{distance(rows):>6.3f}")

panels = {
    "training rows without holes": holes[n_known == 2],
    "new rows": test,
    "draws given the first coordinate": draws,
    "means given the first coordinate": means,
}
figure, axes = plt.subplots(
    1, 4, figsize=(11, 2.9), sharex=True, sharey=True, layout="constrained"
)
for axis, (title, rows) in zip(axes, panels.items(), strict=True):
    axis.plot(*rows.T, ".", markersize=2)
    axis.set_title(title, fontsize=9)
axes[0].set(xlabel="first coordinate", ylabel="second coordinate")

# %%
# Errors of one guess for each cell
# ---------------------------------
# A fifth of the cells of the breast cancer data is hidden. The mean has the least squared error,
# so it is what is compared. Errors are divided by the standard deviation of the column.
cancer = load_breast_cancer()
X = cancer.data
hidden = rng.uniform(size=X.shape) < 0.2
table = np.where(hidden, np.nan, X)
scaler = StandardScaler().fit(table)
rows = scaler.transform(table)
guesses = {
    "column mean": SimpleImputer().fit_transform(rows),
    "KNNImputer": KNNImputer().fit_transform(rows),
    "IterativeImputer": IterativeImputer(random_state=0).fit_transform(rows),
    "GaussianVAE": GaussianVAE(random_state=0).fit(rows).impute(rows),
}
truth = scaler.transform(X)
errors = {name: np.where(hidden, guess - truth, np.nan) for name, guess in guesses.items()}
print(f"\n{'errors of hidden cells':<24}{'RMS':>8}{'mean absolute':>16}")
for name, error in errors.items():
    rms, absolute = np.sqrt(np.nanmean(error**2)), np.nanmean(np.abs(error))
    print(f"{name:<24}{rms:>8.3f}{absolute:>16.3f}")

# %%
# Columns that follow from others, such as the radius, the perimeter and the area, are nearly known.
by_column = {name: np.sqrt(np.nanmean(error**2, axis=0)) for name, error in errors.items()}
order = np.argsort(by_column["GaussianVAE"])
figure, axis = plt.subplots(figsize=(9, 5.5), layout="constrained")
colours = "#999999", "#d55e00", "#009e73", "#0072b2"
for (name, rms), colour in zip(by_column.items(), colours, strict=True):
    axis.plot(rms[order], np.arange(len(order)), "o", markersize=4, color=colour, label=name)
axis.set_yticks(np.arange(len(order)), cancer.feature_names[order], fontsize=8)
axis.set(xlabel="RMS error, standard deviations of the column", xlim=(0, None))
axis.grid(axis="y", alpha=0.3)
axis.legend()
plt.show()
