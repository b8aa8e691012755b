"""
A grid search, ordinary and stacked
===================================

``score`` is a log-likelihood, so a grid search over ``n_components`` and ``kl_weight`` needs
neither labels nor a scorer. As a training step of a small network is mostly overhead,
``StackedGridSearchCV`` takes it for all candidates and folds together.
"""

# %%
# The same search twice
# ---------------------
# Networks of one shape are trained in one stack: here those of the same ``n_components``.
# ``kl_weight`` and the fold may differ within it. Each fit is one model here: five, the default,
# would be a stack already.
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold

from skgvae import GaussianVAE
from skgvae.model_selection import StackedGridSearchCV

X = load_wine().data
vae = GaussianVAE(n_estimators=1, max_epochs=10, random_state=0)
grid = {"n_components": [1, 3, 8], "kl_weight": [0.5, 2.0]}
folds = KFold(3, shuffle=True, random_state=0)
searches, seconds = {}, {}
for search in (GridSearchCV, StackedGridSearchCV):
    start = time.perf_counter()
    searches[search.__name__] = search(vae, grid, cv=folds).fit(X)
    seconds[search.__name__] = time.perf_counter() - start

n_fits = 3 * len(next(iter(searches.values())).cv_results_["params"])
print(f"{n_fits} fits, wine data{'':<9}{'seconds':>8}{'best score, nats a row':>25}")
for name, search in searches.items():
    print(f"{name:<26}{seconds[name]:>8.1f}{search.best_score_:>25.2f}  {search.best_params_}")

# %%
# What the search says
# --------------------
# At a KL weight of one the training loss is a bound on the score itself; a larger weight asks for
# fewer, smoother components, which can help where rows are few, a smaller one for better
# reconstructions. The score always has weight one, so all weights can be compared. The two
# searches agree up to rounding, which long training amplifies. The spread between folds is
# mostly which rows are in the fold, and common to all candidates.
results = {name: search.cv_results_ for name, search in searches.items()}
shape = len(grid["kl_weight"]), len(grid["n_components"])
scores = {name: r["mean_test_score"].reshape(shape) for name, r in results.items()}
largest = np.abs(scores["GridSearchCV"] - scores["StackedGridSearchCV"]).max()
print(f"\nlargest difference of a mean score, nats    {largest:>6.2f}")
spread = results["GridSearchCV"]["std_test_score"].mean()
print(f"standard deviation between folds, nats      {spread:>6.2f}")

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.6), width_ratios=[2, 1], layout="constrained"
)
colours = ("#999999", "#d55e00", "#0072b2")
for i, (n, colour) in enumerate(zip(grid["n_components"], colours, strict=True)):
    for name, line in (("GridSearchCV", "-"), ("StackedGridSearchCV", "o")):
        label = f"{n} component{'s' * (n > 1)}" if line == "-" else None
        left.plot(grid["kl_weight"], scores[name][:, i], line, color=colour, label=label)
left.set(
    xscale="log",
    xlabel="kl_weight",
    ylabel="cross-validated nats a row",
    title="lines: ordinary search, dots: stacked",
)
left.set_xticks(grid["kl_weight"], labels=map(str, grid["kl_weight"]))
left.minorticks_off()
left.legend()
right.barh(list(seconds), list(seconds.values()), color=["#999999", "#0072b2"])
right.set(xlabel="seconds", title=f"{n_fits} fits and a refit")
plt.show()
