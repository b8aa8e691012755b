"""
A table with categories, in a pandas pipeline
=============================================

A ``DataFrame`` with numbers and categories goes through a ``ColumnTransformer`` into a
``GaussianVAE``. That runs, and this example says plainly what a Gaussian over one-hot columns is
worth, and what to do instead.
"""

# %%
# The wine data, with the cultivar as a column of the table
# ---------------------------------------------------------
# ``set_output(transform="pandas")`` keeps names through the pipeline. The auto-encoder scales
# inside, so numbers pass through as they are.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_wine
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skgvae import GaussianVAE

wine = load_wine(as_frame=True)
table = wine.data.assign(cultivar=wine.target.map(dict(enumerate(wine.target_names))))
train, test = train_test_split(table, stratify=table["cultivar"], random_state=0)

columns = make_column_transformer(
    (OneHotEncoder(sparse_output=False), ["cultivar"]),
    ("passthrough", make_column_selector(dtype_include="number")),
    verbose_feature_names_out=False,
)
pipeline = make_pipeline(columns, GaussianVAE(4, random_state=0))
pipeline.set_output(transform="pandas").fit(train)
print(pipeline.transform(test).head(3).round(2))

# %%
# What comes out in the one-hot columns
# -------------------------------------
# A Gaussian does not know that the three columns are zero or one and sum to one. Draws are a
# category plus noise, and the noise is wide: in a column of two values the noise floor is that of
# a number rounded to whole units, 1/√12. The largest column is a category, which is often good
# enough for a feature extractor or to draw plausible rows.
vae = pipeline[-1]
encoded = pipeline[:-1].transform(test)
one_hot = [name for name in encoded.columns if name.startswith("cultivar_")]
positions = [encoded.columns.get_loc(name) for name in one_hot]
samples = vae.sample(1000, random_state=0)[:, positions]
distance = np.abs(samples - np.eye(3)[samples.argmax(1)]).max(1)
print(f"\nsamples within 0.1 of a category   {np.mean(distance < 0.1):>6.2f}")
print(f"samples that are exactly one       {np.mean(distance == 0):>6.2f}")
drawn = np.bincount(samples.argmax(1), minlength=3) / len(samples)
print(f"largest column, share of draws     {drawn.round(2)}")
print(f"the same, share of training rows   {encoded[one_hot].mean().to_numpy().round(2)}")

# %%
# What the log density is worth
# -----------------------------
# Less. On columns that take two values a density can grow without limit; only the floor keeps it
# finite, and its value depends on the floor. Lower it, and ``score`` rises by nats that say
# nothing about wine. So nats of a one-hot table cannot be set beside those of anything else.
lower = GaussianVAE(4, min_noise=0.03, random_state=0).fit(pipeline[:-1].transform(train))
for model in (vae, lower):
    print(f"min_noise={model.min_noise!s:<6}{model.score(encoded):>10.2f} nats a row")

# %%
# Instead: a mixed density that is one
# ------------------------------------
# p(category, numbers) = p(category) p(numbers | category), with one auto-encoder for the rows of
# each category. Its log-likelihood is in honest nats, with a sum over categories and a density
# over numbers, and Bayes' rule gives p(category | numbers). It asks for enough rows of each
# category. With one category to predict, ``GaussianVAEClassifier`` is the simpler way.
numbers = wine.data.columns
part = GaussianVAE(4, max_epochs=100, random_state=0)
parts = {
    category: (np.log(len(rows) / len(train)), clone(part).fit(rows[numbers]))
    for category, rows in train.groupby("cultivar", observed=True)
}
joint = np.column_stack(
    [log_share + part.score_samples(test[numbers]) for log_share, part in parts.values()]
)
true = [list(parts).index(category) for category in test["cultivar"]]
print(
    f"\nlog p(category, numbers)           {joint[np.arange(len(test)), true].mean():>7.2f} nats"
)
print(f"category found from the numbers    {accuracy_score(true, joint.argmax(1)):>7.2f}")

# %%
# Two of the three one-hot columns of samples: a Gaussian smears the corners on which the table
# lies.
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
jitter = np.random.default_rng(0).normal(scale=0.01, size=(len(train), 2))
table_columns = pipeline[:-1].transform(train)[one_hot].to_numpy()
for axis, values, category, title in (
    (axes[0], table_columns[:, :2] + jitter, table_columns.argmax(1), "table (jittered)"),
    (axes[1], samples[:, :2], samples.argmax(1), "samples of the auto-encoder"),
):
    for c, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
        axis.plot(*values[category == c].T, ".", markersize=4, color=colour, label=one_hot[c])
    axis.set(title=title, xlabel=one_hot[0], ylabel=one_hot[1])
axes[1].legend(title="largest column")
plt.show()
