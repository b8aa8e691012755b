"""
Two views: what does one half say of the other?
===============================================

A vector v1 that is cheap and a vector v2 that is known in training only:
``GaussianVAEClassifier`` learns p(v2 | v1) and the class together. Here v1 is the upper half of
a digit and v2 its lower half.
"""

# %%
# The second view is ``X_target`` of ``fit``. Left out, v2 is v1 itself.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAEClassifier

digits = load_digits()
upper, lower = np.split(digits.data, 2, axis=1)
v1, v1_test, v2, v2_test, y, y_test = train_test_split(
    upper, lower, digits.target, stratify=digits.target, random_state=0
)
model = GaussianVAEClassifier(max_epochs=20, random_state=0)
models = {
    "v2 is the lower half": model.fit(v1, y, X_target=v2),
    "v2 is v1": GaussianVAEClassifier(max_epochs=20, random_state=0).fit(v1, y),
    "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
        v1, y
    ),
}

# %%
# Which digit is it, from its upper half?
# ---------------------------------------
print(f"{'held-out rows':<24}{'accuracy':>10}{'log loss':>10}")
for name, fitted in models.items():
    probability = fitted.predict_proba(v1_test)
    accuracy = accuracy_score(y_test, fitted.classes_[probability.argmax(1)])
    print(f"{name:<24}{accuracy:>10.3f}{log_loss(y_test, probability):>10.3f}")

# %%
# What does the lower half look like, and how sure is that?
# ---------------------------------------------------------
# ``predict_target`` averages over the latent space, ``sample`` draws from it. A standard
# deviation is worth something if it ranks the errors: pixels are sorted by it into four quarters.
mean, std = model.predict_target(v1_test, return_std=True)
draws = model.sample(v1_test, n_samples=3, random_state=0)
error = (mean - v2_test).ravel()
quarters = np.array_split(np.argsort(std.ravel()), 4)
print(f"\n{'grey levels, RMS':<24}" + "".join(f"{f'quarter {i}':>11}" for i in range(1, 5)))
for name, values in (("predicted std", std.ravel()), ("error of the mean", error)):
    rms = [np.sqrt(np.mean(values[rows] ** 2)) for rows in quarters]
    print(f"{name:<24}" + "".join(f"{value:>11.2f}" for value in rms))

# %%
# Above the line is what the model was given.
rows = [np.flatnonzero(y_test == digit)[0] for digit in range(10)]
pictures = {
    "digit": np.hstack([v1_test, v2_test])[rows],
    **{f"draw {i + 1}": np.hstack([v1_test, draws[i]])[rows] for i in range(3)},
    "mean": np.hstack([v1_test, mean])[rows],
    "std": np.hstack([np.full_like(v1_test, np.nan), std])[rows],
}
figure, axes = plt.subplots(len(pictures), 10, figsize=(9, 5.6), layout="constrained")
for line, (name, images) in zip(axes, pictures.items(), strict=True):
    cmap, limit = ("magma", 8) if name == "std" else ("gray_r", 16)
    for axis, image in zip(line, images, strict=True):
        shown = axis.imshow(image.reshape(8, 8), cmap=cmap, vmin=0, vmax=limit)
        axis.axhline(3.5, color="#0072b2")
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
figure.colorbar(shown, ax=axes[-1], label="grey levels", aspect=6)
figure.suptitle("The lower half, given the upper half")
plt.show()
