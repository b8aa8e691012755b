"""
A table with names, integers and amounts
========================================

A ``DataFrame`` with a category, two integers and four amounts goes into ``GaussianVAE`` as it is.
Are the sampled rows possible? Do they look like wines? And with what can the score be compared?
"""

# %%
# The wine data, with the cultivar as a column of the table
# ---------------------------------------------------------
# ``columns_`` shows what ``fit`` has found. The amounts are measured in steps of 0.01.
# ``malic_acid`` is skewed, so it is bent inside the model. ``set_output(transform="pandas")``
# asks for tables with the dtypes of the training table.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skgvae import GaussianVAE

wine = load_wine(as_frame=True)
numbers = ["magnesium", "proline", "alcohol", "malic_acid", "flavanoids", "color_intensity"]
table = wine.data[numbers].astype({"magnesium": int, "proline": int})
table["cultivar"] = wine.target.map(dict(enumerate(["A", "B", "C"])))
train, test = train_test_split(table, stratify=table["cultivar"], random_state=0)

vae = GaussianVAE(random_state=0).set_output(transform="pandas").fit(train)
for name, column in vae.columns_.items():
    print(f"{name:<16}{column}")

# %%
# Are sampled rows possible?
# --------------------------
# Each of them is: whole numbers, steps of 0.01, nothing negative, one of three names. Without
# kinds one would encode the cultivar as three numbers and take all columns for continuous. Then
# no row is possible as it comes out.
samples = vae.sample(1000, random_state=0)
print(samples.head(3).to_string(index=False))
print(samples.dtypes.to_string())


def are_possible(rows, steps):
    """Say which rows are on the grid of each column, and not negative."""
    place = rows.to_numpy(float) / steps
    return ((np.abs(place - place.round()) < 1e-6) & (place > -1e-6)).all(axis=1)


steps = np.array([1, 1, 0.01, 0.01, 0.01, 0.01])
is_possible = are_possible(samples[numbers], steps)
print(f"\npossible rows, columns as they are    {is_possible.mean():.2f}")
encoder = make_column_transformer(
    (OneHotEncoder(sparse_output=False), ["cultivar"]),
    remainder="passthrough",
    verbose_feature_names_out=False,
).set_output(transform="pandas")
encoded = encoder.fit_transform(train)
plain = GaussianVAE(columns="continuous", random_state=0).fit(encoded)
plain_samples = pd.DataFrame(plain.sample(1000, random_state=0), columns=encoded.columns)
is_possible = are_possible(plain_samples, np.r_[1, 1, 1, steps])
print(f"possible rows, encoded as numbers     {is_possible.mean():.2f}")

# %%
# Do numbers and names belong together?
# -------------------------------------
# A classifier that has seen nothing but sampled rows finds the cultivar of real wines about as
# well as one that was trained on real wines.
for name, rows in (("real rows", train), ("sampled rows", samples)):
    classifier = make_pipeline(StandardScaler(), LogisticRegression())
    classifier.fit(rows[numbers], rows["cultivar"])
    accuracy = classifier.score(test[numbers], test["cultivar"])
    print(f"accuracy on held-out wines, trained on {name:<14}{accuracy:.2f}")

# %%
# What is unknown?
# ----------------
# ``impute`` fills numbers and names. By default it takes the median of a grid, so that each cell
# is a possible value, and the most probable name.
holes = test.astype(object)
holes.loc[holes.index[::2], "cultivar"] = None
holes.loc[holes.index[1::2], ["magnesium", "color_intensity"]] = np.nan
filled = vae.impute(holes)
is_right = (filled["cultivar"] == test["cultivar"].to_numpy())[::2]
print(f"cultivars found from the numbers   {is_right.mean():.2f}")
for name in ("magnesium", "color_intensity"):
    error = (filled[name] - test[name].to_numpy())[1::2].abs().mean()
    usual = (train[name].median() - test[name])[1::2].abs().mean()
    print(f"error of {name:<16}{error:>6.2f}, of the median of the column {usual:>6.2f}")

# %%
# With what can the score be compared?
# ------------------------------------
# The score counts log P(cell) − log(step) for a grid and log P(level) for a category, so its
# unit is that of a density. A mixture of Gaussians for each cultivar has the same unit if
# uniform noise of one step is added to each number. Its score is then a lower bound of what the
# mixture would get for the cells. The steps are so small that the bound is nearly exact.
print(f"\n{'GaussianVAE':<46}{vae.score(test):>7.2f} nats a row")
noise = np.random.default_rng(0)
noisy = {
    part: rows[numbers] + noise.uniform(-0.5, 0.5, (len(rows), len(numbers))) * steps
    for part, rows in (("train", train), ("test", test))
}
for n_components in (1, 2, 3):
    total = 0.0
    for cultivar in "ABC":
        own, new = (train["cultivar"] == cultivar), (test["cultivar"] == cultivar)
        scaler = StandardScaler().fit(noisy["train"][own])
        mixture = GaussianMixture(n_components, reg_covar=1e-2, random_state=0)
        mixture.fit(scaler.transform(noisy["train"][own]))
        log_density = mixture.score_samples(scaler.transform(noisy["test"][new]))
        total += np.sum(log_density - np.log(scaler.scale_).sum() + np.log(own.mean()))
    name = f"log share + GaussianMixture({n_components}) per cultivar"
    print(f"{name:<46}{total / len(test):>7.2f} nats a row")

# %%
# Sampled wines beside real ones:
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
for axis, rows, title in ((axes[0], train, "training rows"), (axes[1], samples[:400], "samples")):
    for cultivar, colour in zip("ABC", ("#0072b2", "#d55e00", "#009e73"), strict=True):
        own = rows[rows["cultivar"] == cultivar]
        axis.plot(
            own["color_intensity"], own["proline"], ".", markersize=5, color=colour, label=cultivar
        )
    axis.set(title=title, xlabel="color_intensity")
axes[0].set(ylabel="proline")
axes[1].legend(title="cultivar")
plt.show()
