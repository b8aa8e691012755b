"""
Prediction intervals, and whether they hold
===========================================

What does a regressor know about its own errors? On the diabetes data a mean-only regressor
can be given one width for all rows; ``GaussianVAERegressor`` predicts a distribution for each.
"""

# %%
# Fit both to three quarters of the rows. The mean-only regressor gets intervals from its
# residuals on held-back rows, the best that can be done with one number.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split

from skgvae import GaussianVAERegressor
from skgvae.metrics import calibration_summary, neg_crps_score, probability_integral_transform

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)

model = GaussianVAERegressor(random_state=0).fit(X_train, y_train)
low, high = model.predict_interval(X_test, coverage=0.9).T

X_mean, X_held, y_mean, y_held = train_test_split(X_train, y_train, random_state=0)
trees = HistGradientBoostingRegressor(random_state=0).fit(X_mean, y_mean)
half_width = np.quantile(np.abs(y_held - trees.predict(X_held)), 0.9)
centre = trees.predict(X_test)

# %%
# Coverage and width on rows that neither has seen
# ------------------------------------------------
bounds = {
    "GaussianVAERegressor": (low, high),
    "HistGradientBoosting, one width": (centre - half_width, centre + half_width),
}
print(f"{'90 % intervals on held-out rows':<34}{'coverage':>9}{'mean width':>12}")
for name, (lower, upper) in bounds.items():
    inside = (lower <= y_test) & (y_test <= upper)
    print(f"{name:<34}{inside.mean():>9.2f}{(upper - lower).mean():>12.1f}")
print(f"\nCRPS of GaussianVAERegressor: {-neg_crps_score(model, X_test, y_test):.1f}")
for name, value in calibration_summary(model, X_test, y_test).items():
    print(f"{name:<14}{value:>6.2f}")

# %%
# The intervals follow the rows; the transform of y by its own predictive distribution
# function is uniform where they are right.
order = np.argsort(model.predict(X_test))
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[2, 1], layout="constrained")
position = np.arange(len(order))
axes[0].fill_between(position, low[order], high[order], alpha=0.3, label="90 % interval")
axes[0].plot(position, model.predict(X_test)[order], label="mean")
axes[0].plot(position, y_test[order], ".", color="black", markersize=4, label="held-out y")
axes[0].set(xlabel="held-out rows, by predicted mean", ylabel="disease progression")
axes[0].legend()
pit = probability_integral_transform(model, X_test, y_test)
axes[1].hist(pit, bins=np.linspace(0, 1, 11), color="tab:blue", alpha=0.6)
axes[1].axhline(len(pit) / 10, color="black", linestyle="--", label="calibrated")
axes[1].set(xlabel="F(y | x)", ylabel="held-out rows")
axes[1].legend()
plt.show()
