"""
Quickstart: density, latent features, reconstructions
=====================================================

One estimator with default settings, beside the classical models that it contains, each of
them tuned by cross-validation.
"""

# %%
# Held-out log-likelihood
# -----------------------
# ``score`` is the mean log density of a row, in nats and in the units of the data: the same
# quantity for all models. The digits are counts from 0 to 16; noise of one unit makes them
# continuous, without which a density can grow without limit on their grid.
import argparse
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

parser = argparse.ArgumentParser()
parser.add_argument("--figure", default="quickstart.png", help="where to save the figure")
figure_path = parser.parse_known_args()[0].figure
warnings.simplefilter("ignore", ConvergenceWarning)  # of the classical models

cancer, digits = load_breast_cancer(), load_digits()
dequantised = digits.data + np.random.default_rng(0).uniform(size=digits.data.shape)
data = {
    "breast cancer": (cancer.data, cancer.target),
    "digits": (dequantised, digits.target),
}


def classical(n_features):
    """Return grid searches over the models that GaussianVAE is compared with."""
    widths = [k for k in (2, 4, 8, 16, 24, 32, 48) if k < n_features]
    mixture = GaussianMixture(reg_covar=1e-3, random_state=0)
    grid = {"n_components": [1, 2, 3, 5, 10, 20], "covariance_type": ["full", "diag"]}
    factors = FactorAnalysis(max_iter=100)
    searches = {
        "PCA": GridSearchCV(PCA(), {"n_components": widths}, cv=3),
        "FactorAnalysis": GridSearchCV(factors, {"n_components": widths[:5]}, cv=3, n_jobs=2),
        "GaussianMixture": GridSearchCV(mixture, grid, cv=3, n_jobs=2),
    }
    return {name: make_pipeline(StandardScaler(), s) for name, s in searches.items()}


def density(model, X_train, X_test):
    """Return held-out nats a row in standardised units, and the seconds of the fit."""
    start = time.perf_counter()
    model.fit(X_train)
    seconds = time.perf_counter() - start
    score = model.score(X_test)
    if isinstance(model, GaussianVAE):  # which answers in the units of X
        score += np.log(X_train.std(axis=0)[X_train.std(axis=0) > 0]).sum()
    return score, seconds


print(f"{'held-out log-likelihood':<24}{'data':<15}{'nats a row':>11}{'fit, s':>8}")
for name, (X, y) in data.items():
    X_train, X_test = train_test_split(X, stratify=y, random_state=0)
    models = {"GaussianVAE": GaussianVAE(random_state=0), **classical(X.shape[1])}
    for model_name, model in models.items():
        score, seconds = density(model, X_train, X_test)
        print(f"{model_name:<24}{name:<15}{score:>11.2f}{seconds:>8.1f}")

# %%
# Latent features in a pipeline
# -----------------------------
# ``transform`` gives posterior means. A GaussianVAE stands wherever PCA stands.
print(f"\n{'accuracy of logistic regression on 5 components':<50}{'test':>6}")
X_train, X_test, y_train, y_test = train_test_split(
    digits.data, digits.target, stratify=digits.target, random_state=0
)
for reduction in (GaussianVAE(5, random_state=0), PCA(5)):
    pipeline = make_pipeline(StandardScaler(), reduction, LogisticRegression(max_iter=2000))
    accuracy = pipeline.fit(X_train, y_train).score(X_test, y_test)
    print(f"StandardScaler -> {type(reduction).__name__:<32}{accuracy:>6.3f}")

# %%
# A grid search without labels or scorer
# --------------------------------------
X = cancer.data
grid = {"n_components": [5, 15, 30], "kl_weight": [0.5, 1.0]}
search = GridSearchCV(GaussianVAE(max_epochs=30, random_state=0), grid, cv=3, n_jobs=2).fit(X)
print("\nGridSearchCV on breast cancer (cross-validated nats a row, in the data's units)")
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"],
                         strict=True):  # fmt: skip
    print(f"{params!s:<46}{score:>8.2f}")
print(f"best: {search.best_params_}")

# %%
# The latent plane, and what is known about each pixel
# ----------------------------------------------------
# With two components the latent space can be drawn. The decoder's standard deviation says
# where a reconstruction is not to be trusted: at the strokes' edges.
plane = GaussianVAE(2, random_state=0).fit(X_train)
vae = GaussianVAE(16, random_state=0).fit(X_train)
mean, std = vae.reconstruct(X_test[:6], return_std=True)

figure, axes = plt.subplot_mosaic(
    [["plane", *(f"{row}{i}" for i in range(6))] for row in ("original", "mean", "std")],
    figsize=(11, 4.2),
    width_ratios=[5, 1, 1, 1, 1, 1, 1],
    layout="constrained",
)
Z = plane.transform(X_test)
points = axes["plane"].scatter(*Z.T, c=y_test, cmap="tab10", s=10)
axes["plane"].legend(*points.legend_elements(), title="digit", fontsize=7, loc="center left",
                     bbox_to_anchor=(1, 0.5))  # fmt: skip
axes["plane"].set(
    title="latent plane, held-out digits", xlabel="component 0", ylabel="component 1"
)
for i in range(6):
    for row, values, limit in (
        ("original", X_test[i], 16),
        ("mean", mean[i], 16),
        ("std", std[i], 6),
    ):
        axis = axes[f"{row}{i}"]
        cmap = "magma" if row == "std" else "gray_r"
        axis.imshow(values.reshape(8, 8), cmap=cmap, vmin=0, vmax=limit)
        axis.set(xticks=[], yticks=[], ylabel=row if i == 0 else "")
figure.savefig(figure_path, dpi=150)
print(f"\nfigure saved to {figure_path}")
