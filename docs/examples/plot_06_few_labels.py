"""
A classifier with few labels
============================

Rows without a label still tell what rows look like. ``GaussianVAEClassifier`` takes them with
``unlabeled=-1``: they train its auto-encoder, and its classifier by a sharper version of its own
predictions and by mixtures of two rows. How much does that help, and beside what?
"""

# %%
# Digits, most of them without a label
# ------------------------------------
# The same network is trained with all rows and with the labelled rows alone.
# :class:`~sklearn.semi_supervised.LabelSpreading` hands labels on to near neighbours: on digits,
# which lie in clusters by class, that is hard to beat.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from skgvae import GaussianVAEClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)


def hide(y, n_labels_per_class, rng):
    """Return y with -1 for all but so many rows of each class."""
    hidden = np.full_like(y, -1)
    for label in np.unique(y):
        rows = rng.choice(np.flatnonzero(y == label), n_labels_per_class, replace=False)
        hidden[rows] = label
    return hidden


numbers = [2, 5, 20]
names = ["with unlabelled rows", "labelled rows alone", "LogisticRegression", "LabelSpreading"]
results = {name: [] for name in names}
for n in numbers:
    y_few = hide(y_train, n, np.random.default_rng(0))
    known = y_few >= 0
    alone = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with_all, without = (
        GaussianVAEClassifier(unlabeled=-1, n_estimators=1, max_epochs=epochs, random_state=0)
        for epochs in (12, 40)
    )
    models = {
        "with unlabelled rows": with_all.fit(X_train, y_few),
        "labelled rows alone": without.fit(X_train[known], y_few[known]),
        "LogisticRegression": alone.fit(X_train[known], y_few[known]),
        "LabelSpreading": LabelSpreading("knn", n_neighbors=15).fit(X_train, y_few),
    }
    for name, model in models.items():
        probability = model.predict_proba(X_test)
        accuracy = accuracy_score(y_test, model.classes_[probability.argmax(1)])
        results[name].append((accuracy, log_loss(y_test, probability)))

# %%
# Held-out accuracy and log loss
# ------------------------------
# One draw of the labels, so differences of a few hundredths mean little.
header = "".join(f"{f'{n} a class':>16}" for n in numbers)
print(f"{'accuracy / log loss':<24}{header}")
for name, pairs in results.items():
    print(f"{name:<24}" + "".join(f"{a:>8.3f} / {loss:.3f}" for a, loss in pairs))

# %%
# The gain from unlabelled rows is what stands between the two blue lines. Where classes are
# clusters of near neighbours, methods that follow these get more from the same rows.
styles = {
    "with unlabelled rows": {"color": "#0072b2", "marker": "o"},
    "labelled rows alone": {"color": "#0072b2", "marker": "o", "linestyle": "--"},
    "LogisticRegression": {"color": "#999999", "marker": "s"},
    "LabelSpreading": {"color": "#d55e00", "marker": "^"},
}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, pairs in results.items():
    for axis, values in zip(axes, np.transpose(pairs), strict=True):
        axis.plot(numbers, values, label=name, **styles[name])
for axis, label in zip(axes, ("held-out accuracy", "held-out log loss, nats"), strict=True):
    axis.set(xscale="log", xticks=numbers, xlabel="labels of each class", ylabel=label)
    axis.set_xticks(numbers, labels=map(str, numbers))
    axis.minorticks_off()
axes[0].legend()
plt.show()
