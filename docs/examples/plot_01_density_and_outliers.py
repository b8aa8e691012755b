"""
Density, and which rows are unusual
===================================

A density says how unusual a row is, in nats. Three models learn what benign samples of the
breast cancer data look like, from benign samples alone; then they are asked about benign samples
that they have not seen and about malignant ones.
"""

# %%
# One scale for all three
# -----------------------
# ``score`` is the mean log density of a row for :class:`~sklearn.decomposition.PCA`, for
# :class:`~sklearn.mixture.GaussianMixture` and for :class:`~skgvae.GaussianVAE` alike. The
# classical models get their sizes from a grid search; all three see standardised columns.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAE

X, y = load_breast_cancer(return_X_y=True)
benign, malignant = X[y == 1], X[y == 0]
train, held_out = train_test_split(benign, test_size=0.3, random_state=0)
scaler = StandardScaler().fit(train)
train, held_out, malignant = (scaler.transform(rows) for rows in (train, held_out, malignant))

mixture = GaussianMixture(reg_covar=1e-3, random_state=0)
models = {
    "PCA": GridSearchCV(PCA(), {"n_components": [2, 5, 10, 15, 20]}, cv=3),
    "GaussianMixture": GridSearchCV(mixture, {"n_components": [1, 2, 3, 5]}, cv=3),
    "GaussianVAE": GaussianVAE(max_epochs=60, random_state=0),
}
for model in models.values():
    model.fit(train)

# %%
# Held-out log density and outliers
# ---------------------------------
# The two columns answer different questions. The first: how well is the benign data described?
# The second: how often does a malignant sample have a lower density than a benign one? A better
# density need not give a better ranking. Malignant samples are far from the benign ones in many
# columns at once, which a plain Gaussian sees as well.
is_malignant = np.repeat([0, 1], [len(held_out), len(malignant)])
surprise = {
    name: -np.concatenate([_.score_samples(held_out), _.score_samples(malignant)])
    for name, _ in (
        (name, getattr(model, "best_estimator_", model)) for name, model in models.items()
    )
}
print(f"{'':<18}{'held-out nats a row':>20}{'area under ROC curve':>22}")
for name, values in surprise.items():
    nats = -values[is_malignant == 0].mean()
    print(f"{name:<18}{nats:>20.2f}{roc_auc_score(is_malignant, values):>22.3f}")

# %%
# What an unusual row looks like to the model
# -------------------------------------------
# Surprise is minus the log density. It has no absolute meaning: other units of the columns add a
# constant. Held-out rows give the scale to read it on.
colours = {"PCA": "#999999", "GaussianMixture": "#d55e00", "GaussianVAE": "#0072b2"}
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, values in surprise.items():
    false, true, _ = roc_curve(is_malignant, values)
    area = roc_auc_score(is_malignant, values)
    left.plot(false, true, color=colours[name], label=f"{name}, area {area:.3f}")
left.set(
    xlabel="share of held-out benign rows flagged",
    ylabel="share of malignant rows flagged",
    title="flag the rows of lowest density",
)
left.legend(loc="lower right")

values = surprise["GaussianVAE"] - surprise["GaussianVAE"].min() + 1
bins = np.geomspace(1, values.max(), 40)
for label, part, colour in (("benign, held out", 0, "#0072b2"), ("malignant", 1, "#d55e00")):
    right.hist(values[is_malignant == part], bins, color=colour, alpha=0.6, label=label)
right.set(
    xscale="log",
    xlabel="surprise above that of the likeliest row + 1, nats",
    ylabel="rows",
    title="GaussianVAE",
)
right.legend()
plt.show()
