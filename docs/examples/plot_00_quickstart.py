"""
Quickstart: density, latent features, reconstructions
=====================================================

One estimator is a density, a transformer and a decoder that says what it does not know.
"""

# %%
# A density
# ---------
# ``score`` is the mean log density of held-out rows, in nats and in the units of the data;
# scikit-learn's models are given standardised columns, whose units are put back here.
# ``make demo`` prints this comparison with the other models tuned by cross-validation.
import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test = train_test_split(X, stratify=y, random_state=0)
vae = GaussianVAE(max_epochs=40, random_state=0).fit(X_train)
print(f"{'GaussianVAE':<18}{vae.score(X_test):8.2f} nats a row")
for model in (GaussianMixture(2, random_state=0), FactorAnalysis(8), PCA(8)):
    model = make_pipeline(StandardScaler(), model).fit(X_train)
    score = model.score(X_test) - np.log(X_train.std(axis=0)).sum()
    print(f"{type(model[-1]).__name__:<18}{score:8.2f} nats a row")

# %%
# Latent features in a pipeline
# -----------------------------
# ``transform`` gives posterior means. A GaussianVAE stands wherever PCA stands. Densities are the
# mean of five models', the latent space is that of one: where no more is asked for, train one.
X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
for reduction in (GaussianVAE(5, n_estimators=1, max_epochs=20, random_state=0), PCA(5)):
    pipeline = make_pipeline(StandardScaler(), reduction, LogisticRegression(max_iter=2000))
    accuracy = pipeline.fit(X_train, y_train).score(X_test, y_test)
    print(f"logistic regression on 5 components of {type(reduction).__name__}: {accuracy:.3f}")

# %%
# The latent plane, and what is known about each pixel
# ----------------------------------------------------
# With two components the latent space can be drawn. The decoder's standard deviation says
# where a reconstruction is not to be trusted: at the strokes' edges.
parser = argparse.ArgumentParser()
parser.add_argument("--figure", default="quickstart.png", help="where to save the figure")
figure_path = parser.parse_known_args()[0].figure

plane = GaussianVAE(2, n_estimators=1, max_epochs=25, random_state=0).fit(X_train)
vae = GaussianVAE(16, n_estimators=1, max_epochs=20, random_state=0).fit(X_train)
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
    title="latent plane, held-out digits",
    xlabel="component 0",
    ylabel="component 1",
    xlim=(-5, 5),  # one digit, with ink where the training digits have none, lies outside
    ylim=(-6, 6),
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
print(f"figure saved to {figure_path}")
